/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "late.h"

#include "counters.h"

static int send_one(struct worker *worker, const struct member *member, const struct waiting_packet *packet, uint64_t time,
		    egress_other *other)
{
	struct rule *rule = member->rule;
	uint32_t i, next = 0;

	for (i = 0; i < rule->output_count; i++) {
		struct output *output = &rule->outputs[i];
		const struct output *to;
		int result;

		if (output->socket != MCRD_BY_MEMBER)
			continue; /* sent when it came */
		to = &member->outputs[next++];
		if (!members_is_for(output, packet->skipping))
			continue;
		count(&output->counters->waiting, (uint64_t)-1);
		if (to->socket == MCRD_BY_MEMBER) {
			count(&output->counters->dropped.new_member, 1);
			continue;
		}
		if (to->socket == MCRD_UNWANTED) {
			count(&output->counters->skipped.not_wanted, 1);
			continue;
		}
		result = worker_send(worker, output, to, packet->payload, packet->length, time, other);
		if (result < 0)
			return result;
	}
	return 0;
}

int late_send(struct worker *worker, egress_other *other)
{
	struct member *member;
	uint64_t time;

	if (!members_ready(&worker->rules))
		return 0;
	time = pace_real_now();
	worker->egress.time = time;
	while ((member = members_ready(&worker->rules))) {
		const struct waiting_packet *packet;
		int result;

		for (packet = member->waiting.first; packet; packet = packet->next) {
			result = send_one(worker, member, packet, time, other);
			if (result < 0)
				return result;
		}
		result = egress_flush(&worker->egress, other, worker);
		if (result < 0)
			return result;
		members_end_waiting(&worker->rules, member);
	}
	return 0;
}
