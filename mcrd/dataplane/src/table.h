/* A chained hash table, doubled when there are more entries than buckets. Each has a seed of its own.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_TABLE_H
#define MCRD_TABLE_H

#include "hash.h"
#include "shared.h"

/* The first member of whatever is kept in a table. */
struct entry {
	struct entry *next;
	struct key key;
};

struct table {
	struct entry **buckets;
	uint32_t mask;
	uint32_t count;
	struct hash_seed seed;
};

int table_init(struct table *table); /* what failed too is for table_free() */
void table_free(struct table *table); /* its entries too */

void table_add(struct table *table, struct entry *entry); /* in front of entries with the same key */
void table_remove(struct table *table, struct entry *entry);
struct entry *table_find(const struct table *table, const struct key *key);
struct entry *table_find_next(const struct entry *entry); /* with the same key */

#endif
