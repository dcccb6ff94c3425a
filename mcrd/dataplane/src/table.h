/* A chained hash table of endpoints, doubled when there are more entries than buckets.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_TABLE_H
#define MCRD_TABLE_H

#include "shared.h"

/* The first member of whatever is kept in a table. */
struct entry {
	struct entry *next;
	struct endpoint key;
};

struct table {
	struct entry **buckets;
	uint32_t mask;
	uint32_t count;
};

int table_init(struct table *table);
void table_free(struct table *table); /* its entries too */

void table_add(struct table *table, struct entry *entry); /* in front of entries with the same key */
void table_remove(struct table *table, struct entry *entry);
struct entry *table_find(const struct table *table, const struct endpoint *key);

#endif
