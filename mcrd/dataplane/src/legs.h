/* What a leg of a rule brings, and others bring too: it is dropped, and counted.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_LEGS_H
#define MCRD_LEGS_H

#include "arrival.h"

/* Is another leg of the rule in use? Asked once for each frame: the answer is noted. */
static inline int legs_wait(const struct worker *worker, struct rule *rule, uint64_t now)
{
	return rule->switches && !switch_passes(rule->switches, &worker->segment->switches[rule->slot],
						rule->match.switches.copies.leg, now);
}

/* Is the datagram that begins `at` bytes into the payload one that another leg brings, or has brought? Then it is counted.
 * `waits` is what legs_wait() said. */
int legs_count(struct worker *worker, struct arrival *arrival, int waits, uint32_t at);

/* As that, of any rule. */
static inline int legs_drop(struct worker *worker, struct arrival *arrival, int waits, uint32_t at)
{
	return (arrival->rule->merge || arrival->rule->switches) && legs_count(worker, arrival, waits, at);
}

#endif
