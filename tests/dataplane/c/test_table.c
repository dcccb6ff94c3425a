/* table.c against a list that is searched from its newest entry on.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "table.h"

#include <string.h>

#include "check.h"

enum { ENTRIES = 4000, KEYS = 3000, STEPS = 60000 };

struct thing {
	struct entry entry;
	uint32_t key;
	uint32_t born; /* 0: not in the table */
};

static struct thing *things[ENTRIES];

/* Keys that differ in few bits, at either end of any of their parts. */
static struct key key_of(uint32_t number)
{
	static const uint64_t constant[] = { 0x0101efULL, 0x15ff, 0, 0x100007f, 0x0411000000000000ULL };
	struct key key;
	uint32_t part = number % 5, high = number / 5 % 2;

	memcpy(&key, constant, sizeof(key));
	key.words[part] ^= (uint64_t)(number / 10) << (high ? 48 : 0);
	key.words[4] ^= (uint64_t)(number % 10) << 32;
	return key;
}

static struct thing *newest(uint32_t key)
{
	struct thing *found = NULL;
	uint32_t i;

	for (i = 0; i < ENTRIES; i++)
		if (things[i] && things[i]->key == key && (!found || things[i]->born > found->born))
			found = things[i];
	return found;
}

static void check_key(const struct table *table, uint32_t number)
{
	struct key key = key_of(number);

	CHECK(table_find(table, &key) == (struct entry *)newest(number));
}

/* From the newest entry of a key to its oldest, whatever stands between them. */
static void check_all(const struct table *table, uint32_t number)
{
	struct key key = key_of(number);
	const struct entry *entry;
	uint32_t i, count = 0, born = 0xffffffff;

	for (entry = table_find(table, &key); entry; entry = table_find_next(entry)) {
		const struct thing *thing = (const struct thing *)entry;

		CHECK_EQUAL(thing->key, number);
		CHECK(thing->born < born);
		born = thing->born;
		count++;
	}
	for (i = 0; i < ENTRIES; i++)
		count -= things[i] && things[i]->key == number;
	CHECK_EQUAL(count, 0);
}

static void add(struct table *table, uint32_t place, uint32_t number, uint32_t now)
{
	things[place] = check_allocate(sizeof(struct thing));
	*things[place] = (struct thing){ .entry = { .key = key_of(number) }, .key = number, .born = now };
	table_add(table, &things[place]->entry);
}

static void drop(struct table *table, uint32_t place)
{
	table_remove(table, &things[place]->entry);
	free(things[place]);
	things[place] = NULL;
}

static uint32_t in_buckets(const struct table *table)
{
	const struct entry *entry;
	uint32_t i, total = 0;

	for (i = 0; i <= table->mask; i++)
		for (entry = table->buckets[i]; entry; entry = entry->next)
			total++;
	return total;
}

static void test_keys_differ(void)
{
	uint32_t i, j;

	check_about("keys");
	for (i = 0; i < KEYS; i++)
		for (j = 0; j < i; j++) {
			struct key a = key_of(i), b = key_of(j);

			CHECK(memcmp(&a, &b, sizeof(a)) != 0);
		}
}

static void test_against_a_list(void)
{
	struct table table;
	uint64_t random = 7;
	uint32_t step, i, count = 0;

	CHECK_EQUAL(table_init(&table), 0);
	check_about("empty");
	check_key(&table, 0);
	check_about("steps");
	for (step = 1; step <= STEPS; step++) {
		uint32_t place = check_random(&random) % ENTRIES;

		if (things[place]) {
			uint32_t number = things[place]->key;

			drop(&table, place);
			count--;
			check_key(&table, number);
		} else {
			/* A few keys over and over, so that many entries share one. */
			uint32_t number = check_random(&random) % (step % 4 ? KEYS : 8);

			add(&table, place, number, step);
			count++;
			check_key(&table, number);
		}
		check_key(&table, check_random(&random) % KEYS);
		CHECK_EQUAL(table.count, count);
	}
	for (i = 0; i < KEYS; i++) {
		check_key(&table, i);
		check_all(&table, i);
	}
	CHECK_EQUAL(in_buckets(&table), count);
	CHECK(table.mask >= 1023); /* it grew: with 2000 entries */
	check_about("emptied");
	for (i = 0; i < ENTRIES; i++)
		if (things[i])
			drop(&table, i);
	CHECK_EQUAL(table.count, 0);
	CHECK_EQUAL(in_buckets(&table), 0);
	table_free(&table);
}

/* The order of entries with one key survives every doubling. */
static void test_growth_keeps_the_order(void)
{
	struct table table;
	struct entry *entries[3];
	struct key key = key_of(1);
	uint32_t i;

	check_about("order");
	CHECK_EQUAL(table_init(&table), 0);
	for (i = 0; i < 3; i++) {
		entries[i] = check_allocate(sizeof(struct entry));
		entries[i]->key = key;
		table_add(&table, entries[i]);
	}
	for (i = 2; i < KEYS; i++) {
		struct entry *other = check_allocate(sizeof(*other));

		other->key = key_of(i);
		table_add(&table, other);
		CHECK(table_find(&table, &key) == entries[2]);
	}
	for (i = 3; i-- > 0;) {
		CHECK(table_find(&table, &key) == entries[i]);
		table_remove(&table, entries[i]);
		free(entries[i]);
	}
	CHECK(table_find(&table, &key) == NULL);
	table_free(&table); /* the others too: the sanitizer looks for leaks */
}

/* Each bit of a key tells it from another that has all else in common. */
static void test_bits(void)
{
	enum { BITS = 5 * 64 };
	struct entry *entries[BITS], *bucket = NULL;
	struct table table = { .buckets = &bucket }; /* one bucket: only comparing can tell */
	uint32_t i, j;

	check_about("bits");
	for (i = 0; i < BITS; i++) {
		struct key key = key_of(7);

		key.words[i / 64] ^= 1ULL << i % 64;
		CHECK(table_find(&table, &key) == NULL);
		entries[i] = check_allocate(sizeof(struct entry));
		*entries[i] = (struct entry){ .next = bucket, .key = key };
		bucket = entries[i];
		CHECK(table_find(&table, &key) == entries[i]);
		CHECK(table_find_next(entries[i]) == NULL);
	}
	for (i = 0; i < BITS; i++) {
		struct key key = entries[i]->key;

		CHECK(table_find(&table, &key) == entries[i]);
		for (j = 0; j < BITS; j++)
			CHECK((memcmp(&entries[j]->key, &key, sizeof(key)) == 0) == (i == j));
	}
	for (i = 0; i < BITS; i++)
		free(entries[i]);
}

enum what { GROUPS_AND_PORTS, GROUPS, GROUPS6, PORTS, SOURCES, SOURCE_PORTS };

/* Consecutive groups, ports and sources, as people give them, spread over the buckets. */
static void spread(struct key *key, enum what which, uint32_t i)
{
	uint8_t *bytes = (uint8_t *)key->words;
	const uint8_t group[] = { 239, 1, (uint8_t)(i >> 8), (uint8_t)i };
	const uint8_t host[] = { 10, 0, (uint8_t)(i >> 8), (uint8_t)i };

	key->words[4] = 4ULL << 56 | 17ULL << 48 | 5000ULL << 32;
	switch (which) {
	case GROUPS_AND_PORTS:
		memcpy(bytes, (const uint8_t[]){ 239, 0, (uint8_t)(i >> 10), (uint8_t)(i >> 2) }, 4);
		key->words[4] += (uint64_t)(i % 4) << 32;
		break;
	case GROUPS:
		memcpy(bytes, group, 4);
		break;
	case GROUPS6:
		key->words[0] = 0x15ff;
		memcpy(bytes + 14, group + 2, 2);
		key->words[4] += 2ULL << 56;
		break;
	case PORTS:
		memcpy(bytes, group, 2);
		key->words[4] = 4ULL << 56 | (uint64_t)i << 32 | 77;
		break;
	case SOURCES:
		memcpy(bytes, group, 2);
		memcpy(bytes + 16, host, 4);
		break;
	case SOURCE_PORTS:
		memcpy(bytes, group, 2);
		memcpy(bytes + 16, host, 2);
		key->words[4] ^= (uint64_t)i << 16;
		break;
	}
}

static void test_spread(enum what which)
{
	struct table table;
	uint32_t i, longest = 0;

	check_about("spread");
	CHECK_EQUAL(table_init(&table), 0);
	for (i = 0; i < 16384; i++) {
		struct entry *entry = check_allocate(sizeof(*entry));

		memset(entry, 0, sizeof(*entry));
		spread(&entry->key, which, i);
		table_add(&table, entry);
	}
	for (i = 0; i <= table.mask; i++) {
		const struct entry *entry;
		uint32_t length = 0;

		for (entry = table.buckets[i]; entry; entry = entry->next)
			length++;
		longest = length > longest ? length : longest;
	}
	CHECK(longest <= 12); /* of random places, 7 or 8 is the most */
	table_free(&table);
}

/* A hash that anybody can compute, as this table once had, and what makes keys for it: each step of it can be
 * undone. */
static const uint64_t STEP = 0x9e3779b97f4a7c15ULL, LAST = 0xbf58476d1ce4e5b9ULL;

static uint64_t step(uint64_t state, uint64_t word)
{
	state = (state ^ word) * STEP;
	return state ^ state >> 29;
}

static uint32_t unkeyed(const struct key *key)
{
	uint64_t state = 0;
	uint32_t i;

	for (i = 0; i < KEY_WORDS; i++)
		state = step(state, key->words[i]);
	return (uint32_t)(state * LAST >> 32);
}

static uint64_t inverse(uint64_t odd)
{
	uint64_t found = odd;
	int i;

	for (i = 0; i < 5; i++)
		found *= 2 - odd * found;
	return found;
}

/* The state before a step, apart from the word. */
static uint64_t undone(uint64_t state)
{
	return (state ^ state >> 29 ^ state >> 58) * inverse(STEP);
}

/* Members of one group from sources of one /64, whose interface identifiers the sender chooses: such that all have
 * one hash, or at random. */
static void choose(struct key *key, int at_random, uint64_t *random, uint32_t i)
{
	uint64_t before, after;

	*key = (struct key){ .words = { 0x15ff, 0x100000000000000, 0x80fe, 0, 6ULL << 56 | 5000ULL << 32 | 7 } };
	if (at_random) {
		key->words[3] = (uint64_t)check_random(random) << 32 | check_random(random);
		return;
	}
	before = step(step(step(0, key->words[0]), key->words[1]), key->words[2]);
	after = undone((0x123ULL << 32 | i) * inverse(LAST)) ^ key->words[4];
	key->words[3] = undone(after) ^ before;
}

/* Entries that are looked at until each has been found once. */
static uint64_t steps(int at_random)
{
	enum { SOURCES_OF_ONE_64 = 8192 };
	struct entry *entries[SOURCES_OF_ONE_64];
	struct table table;
	uint64_t random = 11, total = 0;
	uint32_t i;

	CHECK_EQUAL(table_init(&table), 0);
	for (i = 0; i < SOURCES_OF_ONE_64; i++) {
		entries[i] = check_allocate(sizeof(struct entry));
		choose(&entries[i]->key, at_random, &random, i);
		CHECK(at_random || unkeyed(&entries[i]->key) == 0x123);
		CHECK(table_find(&table, &entries[i]->key) == NULL);
		table_add(&table, entries[i]);
	}
	for (i = 0; i <= table.mask; i++) {
		const struct entry *entry;
		uint32_t length = 0;

		for (entry = table.buckets[i]; entry; entry = entry->next)
			total += ++length;
	}
	table_free(&table);
	return total;
}

static void test_nobody_makes_one_chain(void)
{
	check_about("chains");
	CHECK(steps(0) < 2 * steps(1)); /* with the hash above, 33 million against 10,000 */
}

/* What somebody learns of one worker is of no use with another. */
static void test_each_table_has_a_seed(void)
{
	struct table one, other;
	struct key key = key_of(3);

	check_about("seeds");
	CHECK_EQUAL(table_init(&one), 0);
	CHECK_EQUAL(table_init(&other), 0);
	CHECK(memcmp(&one.seed, &other.seed, sizeof(one.seed)) != 0);
	CHECK(hash_strong(&one.seed, &key) != hash_strong(&other.seed, &key)); /* once in 2^32 it is */
	table_free(&one);
	table_free(&other);
}

/* By another implementation, whose SipHash-2-4 has the value of the paper's appendix A. */
static void test_hashes_are_what_they_are_called(void)
{
	const struct hash_seed seed = { { 0x0706050403020100ULL, 0x0f0e0d0c0b0a0908ULL } };
	struct hash_light_seed light;
	struct key key;
	uint32_t i;

	check_about("hashes");
	for (i = 0; i < sizeof(key); i++)
		((uint8_t *)&key)[i] = (uint8_t)i;
	for (i = 0; i < 1 + 2 * KEY_WORDS; i++)
		light.words[i] = (i + 1) * 0x9e3779b97f4a7c15ULL;
	CHECK_EQUAL(hash_words(&seed, key.words, KEY_WORDS), 0x626b57547b108392ULL);
	CHECK_EQUAL(hash_words(&seed, key.words, 1), 0xd3927d989bb11140ULL);
	CHECK_EQUAL(hash_strong(&seed, &key), 0x7b108392U);
	CHECK_EQUAL(hash_light(&light, &key), 0x986e4676U);
}

int main(void)
{
	test_hashes_are_what_they_are_called();
	test_nobody_makes_one_chain();
	test_each_table_has_a_seed();
	test_keys_differ();
	uint32_t which;

	test_bits();
	test_against_a_list();
	test_growth_keeps_the_order();
	for (which = GROUPS_AND_PORTS; which <= SOURCE_PORTS; which++)
		test_spread((enum what)which);
	return check_result();
}
