/* content.c against its definition, one word after another; with wide vectors, where the CPU has them, and without.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "content.h"

#include <string.h>

#include "check.h"

enum { LONGEST = 65536, SHIFTS = 16, PLACES = 32768, CONTENTS = 8 * PLACES };

static uint8_t data[LONGEST + SHIFTS];

static void fill(uint64_t random)
{
	uint32_t i;

	for (i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)check_random(&random);
}

static uint32_t word_at(const uint8_t *at)
{
	uint32_t word;

	memcpy(&word, at, sizeof(word));
	return word;
}

/* NH of the chunks of a block, with the key from a place on. The last chunk ends where the content does. */
static uint64_t nh(const struct content_key *key, uint32_t shift, const uint8_t *at, uint32_t length)
{
	const uint8_t *secret = (const uint8_t *)key->block + shift;
	uint64_t sum = 0;
	uint32_t chunk, i;

	for (chunk = 0; chunk < length; chunk += CONTENT_CHUNK) {
		const uint8_t *from = chunk + CONTENT_CHUNK > length ? at + length - CONTENT_CHUNK : at + chunk;

		for (i = 0; i < CONTENT_CHUNK; i += 8)
			sum += (uint64_t)(uint32_t)(word_at(from + i) + word_at(secret + chunk + i)) *
			       (uint32_t)(word_at(from + i + 4) + word_at(secret + chunk + i + 4));
	}
	return sum;
}

static uint64_t by_definition(const struct content_key *key, uint64_t about, const uint8_t *at, uint32_t length)
{
	unsigned __int128 sum = key->words[0] + key->words[1] * about + key->words[2] * length;
	uint32_t block, number;

	for (block = 0, number = 3; block < length; block += CONTENT_BLOCK, number += 2) {
		uint32_t here = length - block < CONTENT_BLOCK ? length - block : CONTENT_BLOCK;

		sum += key->words[number] * nh(key, 0, at + block, here);
		sum += key->words[number + 1] * nh(key, CONTENT_CHUNK, at + block, here);
	}
	return (uint64_t)(sum >> 64);
}

static void compare(struct content_key *key, uint32_t shift, uint32_t length)
{
	uint64_t wanted = by_definition(key, length * 77ULL, data + shift, length);
	int wide = key->wide;

	CHECK(content_hash(key, length * 77ULL, data + shift, length) == wanted);
	key->wide = 0;
	CHECK(content_hash(key, length * 77ULL, data + shift, length) == wanted);
	key->wide = wide;
}

static void test_all_ways_are_the_definition(void)
{
	struct content_key key;
	uint32_t length;

	check_about("definition");
	content_expand(&key, &(struct hash_seed){ { 3, 5 } });
	fill(29);
	for (length = CONTENT_CHUNK; length < 2 * CONTENT_BLOCK + 100; length++)
		compare(&key, length % SHIFTS, length);
	for (; length <= LONGEST; length += 997)
		compare(&key, length % SHIFTS, length);
	compare(&key, 0, LONGEST);
	memset(data, 0xff, sizeof(data)); /* the largest sums */
	compare(&key, 0, LONGEST);
}

static void test_every_bit_counts(void)
{
	static const uint32_t lengths[] = { 65, 1328, 2048, 2049, 5000 };
	struct content_key key, other;
	uint32_t i, bit;

	check_about("bits");
	content_expand(&key, &(struct hash_seed){ { 7, 11 } });
	content_expand(&other, &(struct hash_seed){ { 7, 12 } });
	memset(data, 0, sizeof(data));
	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		uint64_t hash = content_hash(&key, 1, data, lengths[i]);

		for (bit = 0; bit < 8 * lengths[i]; bit++) {
			data[bit / 8] ^= 1U << bit % 8;
			CHECK(content_hash(&key, 1, data, lengths[i]) != hash);
			data[bit / 8] ^= 1U << bit % 8;
		}
		CHECK(content_hash(&key, 1, data, lengths[i] + 1) != hash);
		CHECK(content_hash(&key, 2, data, lengths[i]) != hash);
		CHECK(content_hash(&other, 1, data, lengths[i]) != hash);
	}
	content_expand(&other, &(struct hash_seed){ { 7, 11 } });
	CHECK(memcmp(key.block, other.block, sizeof(key.block)) == 0);
	CHECK(memcmp(key.words, other.words, sizeof(key.words)) == 0);
}

/* What differs in a counter alone has places as by chance: of a Poisson distribution with a mean of 8, none of 32,768
 * is above 40. */
static void test_places_are_even(void)
{
	static uint32_t taken[PLACES];
	struct content_key key;
	uint32_t i, most = 0;

	check_about("places");
	content_expand(&key, &(struct hash_seed){ { 13, 17 } });
	memset(data, 0, 100);
	for (i = 0; i < CONTENTS; i++) {
		uint32_t *place;

		memcpy(data + 40, &i, sizeof(i));
		place = &taken[content_hash(&key, 1, data, 100) % PLACES];
		if (++*place > most)
			most = *place;
	}
	CHECK(most <= 40);
}

int main(void)
{
	test_all_ways_are_the_definition();
	test_every_bit_counts();
	test_places_are_even();
	return check_result();
}
