/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "kept.h"

#include "counters.h"
#include "meter.h"

uint64_t kept_choose(struct rule *rule, const uint8_t *source)
{
	uint64_t skipping = 0;
	uint32_t i;

	for (i = 0; i < rule->output_count; i++) {
		const struct output *output = &rule->outputs[i];

		if (output->choice && !choice_takes(output->choice, output->counters, source))
			skipping |= (uint64_t)1 << output->choice->number;
	}
	return skipping;
}

static void count_relayed(struct rule *rule, uint64_t *kept, uint32_t length, uint64_t now)
{
	count(kept, (uint64_t)-1);
	meter_note(&rule->counters->meter, &rule->counters->traffic, &rule->window, now);
	count(&rule->counters->traffic.packets, 1);
	count(&rule->counters->traffic.bytes, length);
}

int kept_send_on(struct worker *worker, struct rule *rule, uint64_t *kept, const struct packet *packet,
		 const uint8_t *payload, uint32_t length)
{
	struct member *member = rule->member_outputs ? members_find(&worker->rules, rule, packet, worker->egress.time) : NULL;
	int waits = rule->member_outputs && (!member || member->state != MEMBER_OPEN);
	uint64_t now = worker->egress.time;
	uint32_t i, next = 0;

	count_relayed(rule, kept, length, now);
	for (i = 0; i < rule->output_count; i++) {
		struct output *output = &rule->outputs[i];
		const struct output *to = members_outlet(output, waits ? NULL : member, &next, packet->source,
							 worker->egress.failed);
		int result = to ? worker_send(worker, output, to, payload, length, now, worker_complete) : 0;

		if (result < 0)
			return result;
	}
	if (waits)
		members_wait(&worker->rules, rule, member, packet, payload, length, now);
	return 0;
}

int kept_send(struct worker *worker, struct rule *rule, uint64_t *kept, uint64_t skipping, const uint8_t *payload,
	      uint32_t length)
{
	uint64_t now = worker->egress.time;
	uint32_t i;

	count_relayed(rule, kept, length, now);
	for (i = 0; i < rule->output_count; i++) {
		struct output *output = &rule->outputs[i];
		int result;

		if (output->choice && skipping >> output->choice->number & 1)
			continue;
		if (output->socket >= MCRD_NOWHERE) {
			count(&output->counters->dropped.unreachable, 1);
			count(worker->egress.failed, 1);
			continue;
		}
		result = worker_send(worker, output, output, payload, length, now, worker_complete);
		if (result < 0)
			return result;
	}
	return 0;
}
