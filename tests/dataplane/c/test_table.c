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

/* Keys that differ in few bits, at either end of the address, in port or in family alone. */
static struct endpoint key_of(uint32_t number)
{
	struct endpoint key = { .port = (uint16_t)(5000 + number % 3), .family = number % 2 ? 6 : 4 };

	if (key.family == 4) {
		const uint8_t address[] = { 239, 1, (uint8_t)(number >> 8), (uint8_t)number };

		memcpy(key.address, address, 4);
	} else {
		key.address[0] = 0xff;
		key.address[number % 4 == 1 ? 15 : 6] = (uint8_t)number;
		key.address[number % 4 == 1 ? 14 : 7] = (uint8_t)(number >> 8);
	}
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
	struct endpoint key = key_of(number);

	CHECK(table_find(table, &key) == (struct entry *)newest(number));
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
			struct endpoint a = key_of(i), b = key_of(j);

			CHECK(a.port != b.port || a.family != b.family || memcmp(a.address, b.address, 16) != 0);
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
	for (i = 0; i < KEYS; i++)
		check_key(&table, i);
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
	struct endpoint key = key_of(1);
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

/* Each member of a key tells it from another that has all else in common. */
static void test_members(void)
{
	static const struct endpoint keys[] = {
		{ .address = { 239, 1, 1, 1 }, .port = 5000, .family = 4 },
		{ .address = { 239, 1, 1, 1 }, .port = 5000, .family = 6 },
		{ .address = { 239, 1, 1, 1 }, .port = 5001, .family = 4 },
		{ .address = { 239, 1, 1, 2 }, .port = 5000, .family = 4 },
		{ .address = { 239, 1, 1, 1, [15] = 1 }, .port = 5000, .family = 6 },
	};
	enum { MEMBERS = sizeof(keys) / sizeof(keys[0]) };
	struct entry *entries[MEMBERS], *bucket = NULL;
	struct table table = { .buckets = &bucket }; /* one bucket: only comparing can tell */
	uint32_t i, j;

	check_about("members");
	for (i = 0; i < MEMBERS; i++) {
		for (j = i; j < MEMBERS; j++)
			CHECK(table_find(&table, &keys[j]) == NULL);
		entries[i] = check_allocate(sizeof(struct entry));
		*entries[i] = (struct entry){ .next = bucket, .key = keys[i] };
		bucket = entries[i];
		for (j = 0; j <= i; j++)
			CHECK(table_find(&table, &keys[j]) == entries[j]);
	}
	for (i = 0; i < MEMBERS; i++)
		free(entries[i]);
}

/* Consecutive groups and ports, as people give them, spread over the buckets. */
static void test_spread(void)
{
	struct table table;
	uint32_t i, longest = 0;

	check_about("spread");
	CHECK_EQUAL(table_init(&table), 0);
	for (i = 0; i < 16384; i++) {
		struct entry *entry = check_allocate(sizeof(*entry));

		memset(entry, 0, sizeof(*entry));
		entry->key.family = 4;
		entry->key.address[0] = 239;
		entry->key.address[2] = (uint8_t)(i >> 10);
		entry->key.address[3] = (uint8_t)(i >> 2);
		entry->key.port = (uint16_t)(5000 + i % 4);
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

int main(void)
{
	test_keys_differ();
	test_members();
	test_against_a_list();
	test_growth_keeps_the_order();
	test_spread();
	return check_result();
}
