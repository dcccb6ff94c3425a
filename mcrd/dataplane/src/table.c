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

static struct entry **bucket_of(const struct table *table, const struct key *key)
{
	return &table->buckets[hash_strong(&table->seed, key) & table->mask];
}

int table_init(struct table *table)
{
	*table = (struct table){ .mask = FIRST_BUCKETS - 1 };
	table->buckets = calloc(FIRST_BUCKETS, sizeof(*table->buckets));
	return table->buckets ? hash_draw(&table->seed, sizeof(table->seed)) : -ENOMEM;
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
	struct table larger = { .mask = table->mask * 2 + 1, .count = table->count, .seed = table->seed };
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
