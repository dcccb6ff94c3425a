/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "legs.h"

#include "counters.h"

/* It is remembered from now on, and may not have been sent when the worker ends. */
static void note(struct worker *worker, uint64_t now)
{
	uint64_t *first = &worker->segment->first_in_hand;

	/* What was sent so far does not matter, but that may not be all of the last frame. */
	if (*first == 0)
		__atomic_store_n(first, now, __ATOMIC_RELAXED);
	else if (worker->flushes != worker->egress.flushes)
		__atomic_store_n(first, worker->passed, __ATOMIC_RELAXED);
	worker->flushes = worker->egress.flushes;
	worker->passed = now;
}

/* Has another leg brought it before? What names the next datagram is on its way meanwhile. */
static int is_copy(struct worker *worker, struct arrival *arrival, uint32_t at)
{
	uint32_t left = arrival->packet.payload_length - at;
	uint64_t now = arrival->frame.time;
	struct rule *rule = arrival->rule;
	struct merge_name name = arrival->name;

	if (!rule->merge)
		return merge_knows(&rule->match.switches.copies, &worker->segment->merges[rule->slot], worker->segment->copies,
				   &worker->guard, arrival->packet.payload + at,
				   left < arrival->size ? left : arrival->size, now);
	if (left > arrival->size)
		arrival_name(worker, arrival, at + arrival->size);
	return !merge_is_first(rule->merge, rule->match.merge.leg, worker->segment->copies, &name,
			       now < worker->began, now);
}

int legs_count(struct worker *worker, struct arrival *arrival, int waits, uint32_t at)
{
	struct interface_counters *here = arrival->here->counters;
	struct rule_counters *counters = arrival->rule->counters;

	if (waits) {
		count(&here->dropped[DROP_STANDBY_INPUT], 1);
		count(&counters->standby_input, 1);
		return 1;
	}
	if (!is_copy(worker, arrival, at)) {
		note(worker, arrival->frame.time);
		return 0;
	}
	count(&here->dropped[DROP_SECOND_COPY], 1);
	count(&counters->second_copy, 1);
	return 1;
}
