/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BUCKETS = 64 };

static int same(const struct key *a, const struct key *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

/* Multiply and mix; the low bits of a product are weak, so the result is taken from the high ones. */
static uint32_t hash(const struct key *key)
{
	uint64_t state = 0;
	size_t i;

	for (i = 0; i < sizeof(key->words) / sizeof(key->words[0]); i++) {
		state = (state ^ key->words[i]) * 0x9e3779b97f4a7c15ULL;
		state ^= state >> 29;
	}
	return (uint32_t)((state * 0xbf58476d1ce4e5b9ULL) >> 32);
}

static struct entry **bucket_of(const struct table *table, const struct key *key)
{
	return &table->buckets[hash(key) & table->mask];
}

int table_init(struct table *table)
{
	table->buckets = calloc(FIRST_BUCKETS, sizeof(*table->buckets));
	table->mask = FIRST_BUCKETS - 1;
	table->count = 0;
	return table->buckets ? 0 : -ENOMEM;
}

void table_free(struct table *table)
{
	uint32_t i;

	for (i = 0; table->buckets && i <= table->mask; i++)
		while (table->buckets[i]) {
			struct entry *entry = table->buckets[i];

			table->buckets[i] = entry->next;
			free(entry);
		}
	free(table->buckets);
	table->buckets = NULL;
}

static void grow(struct table *table)
{
	struct table larger = { .mask = table->mask * 2 + 1, .count = table->count };
	uint32_t i;

	larger.buckets = calloc((size_t)larger.mask + 1, sizeof(*larger.buckets));
	if (!larger.buckets)
		return; /* the chains grow longer: slower, not wrong */
	for (i = 0; i <= table->mask; i++)
		while (table->buckets[i]) {
			struct entry *entry = table->buckets[i];
			struct entry **bucket = bucket_of(&larger, &entry->key);

			table->buckets[i] = entry->next;
			/* At the end, so that entries with the same key keep their order. */
			while (*bucket)
				bucket = &(*bucket)->next;
			entry->next = NULL;
			*bucket = entry;
		}
	free(table->buckets);
	*table = larger;
}

void table_add(struct table *table, struct entry *entry)
{
	struct entry **bucket;

	if (++table->count > table->mask)
		grow(table);
	bucket = bucket_of(table, &entry->key);
	entry->next = *bucket;
	*bucket = entry;
}

void table_remove(struct table *table, struct entry *entry)
{
	struct entry **at = bucket_of(table, &entry->key);

	while (*at != entry)
		at = &(*at)->next;
	*at = entry->next;
	table->count--;
}

struct entry *table_find(const struct table *table, const struct key *key)
{
	struct entry *entry = *bucket_of(table, key);

	while (entry && !same(&entry->key, key))
		entry = entry->next;
	return entry;
}

struct entry *table_find_next(const struct entry *entry)
{
	struct entry *next = entry->next;

	while (next && !same(&next->key, &entry->key))
		next = next->next;
	return next;
}
