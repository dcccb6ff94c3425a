/* The rules of a worker, and the set of the daemon's own egress endpoints. They change between harvests only.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_RULES_H
#define MCRD_RULES_H

#include "packet.h"
#include "table.h"

struct output {
	uint32_t socket; /* place in the file table */
	struct output_counters *counters;
};

struct rule {
	struct entry entry; /* the key is the destination */
	struct rule_counters *counters;
	uint32_t slot;
	uint32_t output_count;
	struct output outputs[];
};

struct rules {
	struct table by_destination;
	struct table own; /* plain entries; the key is a source */
	struct rule *by_slot[MCRD_RULE_SLOTS];
};

int rules_init(struct rules *rules);
void rules_free(struct rules *rules);

/* Takes over `rule`, which malloc made; the rule that had its slot is freed. */
void rules_put(struct rules *rules, struct rule *rule);
int rules_remove(struct rules *rules, uint32_t slot);
int rules_own(struct rules *rules, const struct endpoint *source, int add);

const struct rule *rules_match(const struct rules *rules, const struct packet *packet);
int rules_is_own(const struct rules *rules, const struct packet *packet);

#endif
