/* What was decided for a flow, so that it is not decided anew for each of its packets.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_FLOWS_H
#define MCRD_FLOWS_H

#include "rules.h"

/* A flow has one place, and pushes out the one that was there. Few enough to stay in a cache of the CPU. */
enum { FLOWS = 1024 };

struct flow {
	struct key key; /* all that the decision depends on; zero: none */
	struct rule *rule;
	enum drop drop;
} __attribute__((aligned(64)));

struct flows {
	uint64_t version; /* of the rules, when all of this was decided */
	struct hash_light_seed seed;
	struct flow places[FLOWS];
};

int flows_init(struct flows *flows);

/* The rule that relays the packet; or NULL, and in `drop` why none does. `foreign`: it was sent to the hardware
 * address of another host. */
struct rule *flows_decide(struct flows *flows, const struct rules *rules, const struct packet *packet, uint16_t vlan,
			  int foreign, enum drop *drop);

#endif
