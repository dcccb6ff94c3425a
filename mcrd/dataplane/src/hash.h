/* Hashes with a secret, for keys that whoever sends packets chooses.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_HASH_H
#define MCRD_HASH_H

#include <errno.h>
#include <stdint.h>
#include <sys/random.h>
#include <sys/types.h>

/* Destination, source, and in the last word all that is smaller. */
struct key {
	uint64_t words[5];
};

enum { KEY_WORDS = sizeof(struct key) / sizeof(uint64_t) };

struct hash_seed {
	uint64_t words[2];
};

struct hash_light_seed {
	uint64_t words[1 + 2 * KEY_WORDS];
};

/* Before the sandbox, which forbids it. Returns 0 or a negative errno. */
static inline int hash_draw(void *seed, size_t size)
{
	ssize_t drawn = getrandom(seed, size, 0);

	return drawn == (ssize_t)size ? 0 : drawn < 0 ? -errno : -EIO;
}

static inline uint64_t hash_rotate(uint64_t word, int bits)
{
	return word << bits | word >> (64 - bits);
}

static inline void hash_round(uint64_t *v)
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = hash_rotate(v[1], 13) ^ v[0];
	v[3] = hash_rotate(v[3], 16) ^ v[2];
	v[0] = hash_rotate(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = hash_rotate(v[1], 17) ^ v[2];
	v[3] = hash_rotate(v[3], 21) ^ v[0];
	v[2] = hash_rotate(v[2], 32);
}

/* SipHash-1-3 (Aumasson and Bernstein, 2012) of words, always as many for a seed: so their number is not hashed. */
static inline uint64_t hash_words(const struct hash_seed *seed, const uint64_t *words, int count)
{
	uint64_t v[4] = {
		seed->words[0] ^ 0x736f6d6570736575ULL,
		seed->words[1] ^ 0x646f72616e646f6dULL,
		seed->words[0] ^ 0x6c7967656e657261ULL,
		seed->words[1] ^ 0x7465646279746573ULL,
	};
	int i;

	for (i = 0; i < count; i++) {
		v[3] ^= words[i];
		hash_round(v);
		v[0] ^= words[i];
	}
	v[2] ^= 0xff;
	for (i = 0; i < 3; i++)
		hash_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Where a collision costs more the more there are: no set of keys is known that collides whatever the seed is, and the
 * cost that a sender could measure of some tells nothing of others. */
static inline uint32_t hash_strong(const struct hash_seed *seed, const struct key *key)
{
	return (uint32_t)hash_words(seed, key->words, KEY_WORDS);
}

/* Multilinear-HM (Lemire and Kaser, "Strongly universal string hashing is fast", 2013): a third of the time. Over the
 * seeds, any two keys collide once in 2^32; but somebody who knew of one collision could make others of it. Where a
 * collision costs no more than one packet does anyway. */
static inline uint32_t hash_light(const struct hash_light_seed *seed, const struct key *key)
{
	uint64_t sum = seed->words[0];
	int i;

	for (i = 0; i < KEY_WORDS; i++)
		sum += (seed->words[1 + 2 * i] + (uint32_t)key->words[i]) *
		       (seed->words[2 + 2 * i] + (key->words[i] >> 32));
	/* Addresses in a row make sums in a row, and with a few seeds these share few places: mixed, no seed is bad. */
	sum ^= sum >> 32;
	sum *= 0x9e3779b97f4a7c15ULL;
	return (uint32_t)(sum >> 32);
}

#endif
