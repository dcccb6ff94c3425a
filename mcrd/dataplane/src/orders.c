/* What the supervisor's messages do to rules, their outputs and their members.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "backlog.h"
#include "dedupe.h"
#include "held.h"
#include "worker.h"

#include <errno.h>

void worker_leave_stream(struct worker *worker, struct rule *rule)
{
	if (rule && rule->merge && rule->merge->users == 1)
		held_end(worker, rule->merge);
	if (rule && rule->merge)
		merge_leave(&worker->merged, rule->merge, &worker->segment->merges[rule->slot]);
	if (rule && rule->switches)
		switch_leave(&worker->switched, rule->switches, &worker->segment->switches[rule->slot]);
	if (rule)
		rule->merge = NULL;
	if (rule)
		rule->switches = NULL;
}

/* The rule looks at its payloads as the one before did, which then does no more, or begins to. */
static int inspect_for(struct worker *worker, struct rule *rule)
{
	const struct inspect_settings *settings = &rule->match.inspect;
	struct rule *old = worker->rules.by_slot[rule->slot];
	struct inspector *before = old ? old->inspector : NULL;

	/* Both would count in the same place. */
	if (before)
		old->inspector = NULL;
	if (before && inspector_is_like(before, settings)) {
		rule->inspector = before;
		return 0;
	}
	inspector_free(before);
	if (settings->format == INSPECT_NOTHING)
		return 0;
	rule->inspector = inspector_new(settings, &worker->segment->inspections[rule->slot], &worker->flows.seed,
					&worker->inspected);
	return rule->inspector ? 0 : -ENOMEM;
}

/* Gives the outputs that do not send all of their rule what they choose by. */
static int choose_for(struct rule *rule, const struct rule_output *outputs, const struct source_run *runs)
{
	uint32_t number = 0, i;

	for (i = 0; i < rule->output_count; i++) {
		const struct rule_output *given = &outputs[i];

		if (given->sample <= 1 && given->run_count == 0)
			continue;
		if (number == CHOICES)
			return -E2BIG;
		rule->outputs[i].choice =
			choice_new(number++, given->sample, rule->match.first.family, runs, given->run_count);
		if (!rule->outputs[i].choice)
			return -ENOMEM;
		runs += given->run_count;
	}
	return 0;
}

/* The rule is the leg of a stream that the one before was, or of another, or of none. */
static int merge_for(struct worker *worker, struct rule *rule)
{
	const struct merge_settings *settings = &rule->match.merge;
	struct rule *old = worker->rules.by_slot[rule->slot];
	int result;

	if (!old)
		held_count_lost(worker, rule);
	if (old && old->merge && old->merge->id == settings->stream && old->match.merge.leg == settings->leg) {
		result = held_begin(worker, old->merge, settings->delay);
		if (result < 0)
			return result; /* the old form goes on as it was */
		rule->merge = old->merge;
		old->merge = NULL;
		return 0;
	}
	worker_leave_stream(worker, old);
	if (settings->by == MERGE_NOTHING)
		return 0;
	rule->merge = merge_join(&worker->merged, settings, &worker->segment->merges[rule->slot]);
	return rule->merge ? held_begin(worker, rule->merge, settings->delay) : -ENOMEM;
}

/* As merge_for(). What is in use stands in the segment, so nothing is lost in between. */
static int switch_for(struct worker *worker, struct rule *rule)
{
	const struct switch_settings *settings = &rule->match.switches;
	struct rule *old = worker->rules.by_slot[rule->slot];
	struct switch_counters *counters = &worker->segment->switches[rule->slot];

	if (old && old->switches)
		switch_leave(&worker->switched, old->switches, counters);
	if (old)
		old->switches = NULL;
	if (settings->silence == 0)
		return 0;
	rule->switches = switch_join(&worker->switched, settings, counters, pace_real_now());
	return rule->switches ? 0 : -ENOMEM;
}

/* A number that no other interface has; 0: the worker does not read it. */
static uint32_t number_of(const struct worker *worker, uint32_t counters)
{
	uint32_t i;

	for (i = 0; i < worker->settings.interface_count; i++)
		if (worker->settings.interfaces[i].counters == counters)
			return worker->settings.interfaces[i].number;
	return 0;
}

int worker_put_rule(struct worker *worker, uint32_t slot, const struct rule_match *match,
		    const struct network *networks, const struct rule_output *outputs, uint32_t output_count,
		    const struct source_run *runs, const uint32_t *kept, uint32_t kept_count)
{
	struct rule *rule;
	int result;
	uint32_t i;

	if (slot >= MCRD_RULE_SLOTS || match->interface >= MCRD_INTERFACES || match->overhears > worker->settings.sockets || !inspect_is_possible(&match->inspect) ||
	    !merge_is_possible(&match->merge) || !switch_is_possible(&match->switches))
		return -EINVAL;
	for (i = 0; i < output_count; i++)
		if (outputs[i].counters >= MCRD_OUTPUT_SLOTS ||
		    (outputs[i].socket >= worker->settings.sockets && outputs[i].socket < MCRD_NOWHERE))
			return -EINVAL;
	rule = rule_new(match, networks, output_count);
	if (!rule)
		return -ENOMEM;
	rule->slot = slot;
	rule->counters = &worker->segment->rules[slot];
	rule->dedupe_about = dedupe_about(match, networks, number_of(worker, match->interface));
	for (i = 0; i < output_count; i++) {
		rule->outputs[i].socket = outputs[i].socket;
		rule->outputs[i].counters = &worker->segment->outputs[outputs[i].counters];
		if (limit_init(&rule->outputs[i].limit, outputs[i].packets_per_second) < 0) {
			rule_free(rule);
			return -ENOMEM;
		}
		rule->member_outputs += outputs[i].socket == MCRD_BY_MEMBER;
	}
	result = choose_for(rule, outputs, runs);
	if (result < 0) {
		rule_free(rule);
		return result;
	}
	if ((kept_count != 0 && kept_count != rule->member_outputs) || (match->merge.delay && (match->backlog || rule->member_outputs))) {
		rule_free(rule);
		return -EINVAL;
	}
	result = held_send_of(worker, slot);
	if (result >= 0)
		result = backlog_prepare(worker, match);
	if (result >= 0 && match->overhears)
		result = answers_overhear(&worker->answers, match->overhears - 1, slot);
	if (result < 0) {
		rule_free(rule);
		return result;
	}
	result = inspect_for(worker, rule);
	if (result == 0)
		result = merge_for(worker, rule);
	if (result == 0)
		result = switch_for(worker, rule);
	if (result < 0) {
		worker_leave_stream(worker, rule);
		rule_free(rule);
		return result;
	}
	backlog_begin(worker, rule);
	rules_put(&worker->rules, rule, kept_count ? kept : NULL);
	return 0;
}

int worker_remove_rule(struct worker *worker, uint32_t slot)
{
	int result = slot < MCRD_RULE_SLOTS ? held_send_of(worker, slot) : 0;

	if (result < 0)
		return result;
	if (slot < MCRD_RULE_SLOTS) {
		backlog_end(worker, slot);
		worker_leave_stream(worker, worker->rules.by_slot[slot]);
	}
	return rules_remove(&worker->rules, slot);
}

int worker_put_member(struct worker *worker, const struct member_key *key, uint32_t last_used,
		      const uint32_t *sockets, uint32_t socket_count)
{
	uint32_t i;

	if (last_used >= MCRD_MEMBER_SLOTS)
		return -EINVAL;
	for (i = 0; i < socket_count; i++)
		if (sockets[i] >= worker->settings.sockets && sockets[i] != MCRD_BY_MEMBER && sockets[i] != MCRD_UNWANTED)
			return -EINVAL;
	return members_put(&worker->rules, key, &worker->segment->members[last_used], sockets, socket_count);
}

int worker_remove_member(struct worker *worker, const struct member_key *key)
{
	return members_remove(&worker->rules, key);
}

/* What is sent to the socket at `place` goes to the one at `to`, which is connected to who asked by it. */
int worker_listen(struct worker *worker, uint32_t place, uint32_t to, uint32_t counters, uint32_t last_used,
		  uint64_t within, int keeps)
{
	struct output output = { .socket = to };

	if (place >= worker->settings.sockets || to >= worker->settings.sockets || counters >= MCRD_OUTPUT_SLOTS ||
	    last_used >= MCRD_MEMBER_SLOTS)
		return -EINVAL;
	output.counters = &worker->segment->outputs[counters];
	return answers_listen(&worker->answers, place, &output, &worker->segment->members[last_used], within,
			      keeps);
}

/* What `who` sends to the port at `place` goes to the socket at `to`. */
int worker_tell_answerer(struct worker *worker, uint32_t place, const struct endpoint *who, uint32_t to)
{
	if (place >= worker->settings.sockets || (to >= worker->settings.sockets && to != MCRD_NOWHERE))
		return -EINVAL;
	return answers_tell(&worker->answers, place, who, to);
}

/* Takes a port off the list of those whose first answer is from somebody unknown; -1 when there is none. */
int64_t worker_next_unknown(struct worker *worker)
{
	return answers_next_unknown(&worker->answers);
}

/* Takes a member off the list of those that are wanted; 0 when there is none. */
int worker_next_wanted(struct worker *worker, struct member_key *key)
{
	return members_next_wanted(&worker->rules, key);
}

int worker_own(struct worker *worker, const struct endpoint *source, int add)
{
	return rules_own(&worker->rules, source, add);
}
