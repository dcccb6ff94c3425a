/* A keyed hash of all bytes of a datagram. Whoever does not know the key finds no two that have one hash but by chance:
 * for any two contents, whatever they are, less than one key in 2^62 makes them collide.
 *
 * Each block is hashed by NH, twice, with a key that is shifted for the second (Black, Halevi, Krawczyk, Krovetz and
 * Rogaway, "UMAC: fast and secure message authentication", CRYPTO 1999: 2^-64 for two such hashes of words of 32 bits).
 * What that makes of the blocks, and the length, by Multilinear (Lemire and Kaser, "Strongly universal string hashing is
 * fast", 2014: 2^-64 for 64 bits).
 *
 * Vectors of any width have the same result: so all workers of a host agree. One with another hash of an older build is
 * no harm: what that has remembered is not found for the two seconds that it is known for, so copies under way pass once
 * more, and nothing is taken for a copy that is none.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_CONTENT_H
#define MCRD_CONTENT_H

#include "hash.h"

enum {
	CONTENT_CHUNK = 32,    /* bytes that are hashed at once */
	CONTENT_BLOCK = 2048,
	CONTENT_BLOCKS = 32,   /* of the longest datagram */
	CONTENT_WORDS = 2 + 2 * CONTENT_BLOCKS, /* of Multilinear */
};

struct content_key {
	uint64_t block[(CONTENT_BLOCK + CONTENT_CHUNK) / sizeof(uint64_t)];
	unsigned __int128 words[1 + CONTENT_WORDS];
	int wide; /* the CPU has vectors of 32 bytes: the same sooner */
};

/* The key that follows from a seed: each worker with this seed has it. */
void content_expand(struct content_key *key, const struct hash_seed *seed);

/* Of CONTENT_CHUNK bytes at least, and 65536 at most; `about` is hashed with them. */
uint64_t content_hash(const struct content_key *key, uint64_t about, const uint8_t *data, uint32_t length);

#endif
