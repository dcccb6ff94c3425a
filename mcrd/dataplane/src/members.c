/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "members.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "counters.h"

#define RETRY_NS 5000000ULL /* after as many were asked for as may be in a second */

static struct key key_of(const struct member_key *member)
{
	struct key key = {
		.words = { [4] = (uint64_t)member->destination.family << 56 |
				 (uint64_t)member->destination.port << 32 | member->slot },
	};

	memcpy(key.words, member->destination.address, 16);
	memcpy(key.words + 2, member->source.address, 16);
	key.words[4] ^= (uint64_t)member->source.port << 16;
	return key;
}

static struct member_key wanted_by(const struct rule *rule, const struct packet *packet)
{
	struct member_key key = {
		.slot = rule->slot,
		.destination = { .port = packet->destination_port, .family = packet->family },
	};
	size_t size = packet->family == 6 ? 16 : 4;

	/* All that a rule takes besides its first address is one, 0.0.0.0: which they are may change. */
	if (rule->match.also_count == 0 || memcmp(packet->destination, rule->match.first.address, size) == 0)
		memcpy(key.destination.address, packet->destination, size);
	if (rule->match.by_source) {
		key.source.family = packet->family;
		key.source.port = packet->source_port;
		memcpy(key.source.address, packet->source, size);
	}
	return key;
}

static struct member *new_member(struct rules *rules, struct rule *rule, const struct member_key *wanted)
{
	struct member *member = calloc(1, sizeof(*member) + rule->member_outputs * sizeof(member->outputs[0]));

	if (!member)
		return NULL;
	member->entry.key = key_of(wanted);
	member->wanted = *wanted;
	member->rule = rule;
	member->next = rule->members;
	member->link = &rule->members;
	if (member->next)
		member->next->link = &member->next;
	rule->members = member;
	table_add(&rules->members, &member->entry);
	return member;
}

static void join_queue(struct rules *rules, struct member *member)
{
	struct rule *rule = member->rule;

	if (queue_is_empty(&rule->unasked))
		queue_append(&rules->asking, &rule->turn);
	queue_append(&rule->unasked, &member->place);
}

static void leave_queue(struct member *member)
{
	struct rule *rule = member->rule;

	if (!queue_holds(&member->place))
		return;
	queue_leave(&member->place);
	if (member->state == MEMBER_NEW && queue_is_empty(&rule->unasked))
		queue_leave(&rule->turn);
}

/* The outputs by member of a packet for which they have no sockets. */
static void count_new(const struct rule *rule, uint64_t skipping, int waited)
{
	uint32_t i;

	for (i = 0; i < rule->output_count; i++)
		if (members_is_for(&rule->outputs[i], skipping)) {
			count(&rule->outputs[i].counters->dropped.new_member, 1);
			if (waited)
				count(&rule->outputs[i].counters->waiting, (uint64_t)-1);
		}
}

static void give_up_first(struct rules *rules, struct member *member)
{
	count_new(member->rule, member->waiting.first->skipping, 1);
	waiting_end(&rules->waiting, &member->waiting);
}

static void free_member(struct rules *rules, struct member *member)
{
	while (member->waiting.first)
		give_up_first(rules, member);
	leave_queue(member);
	rules->unanswered -= member->state == MEMBER_ASKED;
	*member->link = member->next;
	if (member->next)
		member->next->link = member->link;
	table_remove(&rules->members, &member->entry);
	free(member);
}

struct member *members_find(const struct rules *rules, const struct rule *rule, const struct packet *packet, uint64_t now)
{
	struct member_key wanted = wanted_by(rule, packet);
	struct key key = key_of(&wanted);
	struct member *member = (struct member *)table_find(&rules->members, &key);

	if (!member)
		return NULL;
	if (member->state == MEMBER_OPEN)
		__atomic_store_n(member->last_used, now, __ATOMIC_RELAXED);
	else
		member->came = now;
	return member;
}

const struct output *members_outlet(struct output *output, const struct member *member, uint32_t *next,
				    const uint8_t *source, uint64_t *failed)
{
	const struct output *to = output;

	if (output->socket == MCRD_BY_MEMBER) {
		if (!member)
			return NULL; /* it waits */
		to = &member->outputs[(*next)++];
	}
	if (output->choice && !choice_takes(output->choice, output->counters, source))
		return NULL;
	if (to->socket == MCRD_NOWHERE) {
		count(&output->counters->dropped.unreachable, 1);
		count(failed, 1);
		return NULL;
	}
	if (to->socket == MCRD_BY_MEMBER) {
		count(&output->counters->dropped.new_member, 1);
		return NULL;
	}
	if (to->socket == MCRD_UNWANTED) {
		count(&output->counters->skipped.not_wanted, 1);
		return NULL;
	}
	return to;
}

static int may_ask(struct rules *rules)
{
	return rules->unanswered < WANTED_AT_ONCE && rules->wanted_count < WANTED_AT_ONCE &&
	       limit_pass(&rules->wanting, rules->now);
}

/* The supervisor is asked for a member that is in no queue. */
static void ask(struct rules *rules, struct member *member)
{
	member->state = MEMBER_ASKED;
	rules->unanswered++;
	rules->wanted[rules->wanted_count++] = member->wanted;
}

void members_prepare(struct rules *rules, struct rule *rule, const struct packet *packet, uint64_t now)
{
	struct member_key wanted = wanted_by(rule, packet);
	struct member *member;

	/* Those for which packets wait come first. */
	if (members_find(rules, rule, packet, now) || !queue_is_empty(&rules->asking) || !may_ask(rules))
		return;
	member = new_member(rules, rule, &wanted);
	if (!member)
		return;
	member->came = now;
	ask(rules, member);
}

/* Lets the outputs by member choose: writes which skip the packet, and returns how many do not. */
static uint32_t choose(struct rule *rule, const struct packet *packet, uint64_t *skipping)
{
	uint32_t i, wanted = 0;

	*skipping = 0;
	for (i = 0; i < rule->output_count; i++) {
		struct output *output = &rule->outputs[i];

		if (output->socket != MCRD_BY_MEMBER)
			continue;
		if (!output->choice || choice_takes(output->choice, output->counters, packet->source))
			wanted++;
		else
			*skipping |= (uint64_t)1 << output->choice->number;
	}
	return wanted;
}

struct member *members_wait(struct rules *rules, struct rule *rule, struct member *member, const struct packet *packet,
			    const uint8_t *payload, uint32_t length, uint64_t now)
{
	uint64_t skipping;
	uint32_t i;

	if (choose(rule, packet, &skipping) == 0)
		return member;
	if (waiting_has_room(&rules->waiting, rule->slot, length) && !member) {
		struct member_key wanted = wanted_by(rule, packet);

		/* One allocation for a member's first packet, none for those that follow. */
		member = new_member(rules, rule, &wanted);
		if (member) {
			member->came = now;
			join_queue(rules, member);
		}
	}
	if (!member || !waiting_has_room(&rules->waiting, rule->slot, length)) {
		count_new(rule, skipping, 0);
		return member;
	}
	waiting_add(&rules->waiting, &member->waiting, rule->slot, payload, length, rules->now)->skipping = skipping;
	for (i = 0; i < rule->output_count; i++)
		if (members_is_for(&rule->outputs[i], skipping))
			count(&rule->outputs[i].counters->waiting, 1);
	return member;
}

void members_ask(struct rules *rules)
{
	while (!queue_is_empty(&rules->asking) && may_ask(rules)) {
		struct rule *rule = QUEUE_OWNER(rules->asking.next, struct rule, turn);
		struct member *member = QUEUE_OWNER(rule->unasked.next, struct member, place);

		leave_queue(member);
		ask(rules, member);
		if (queue_holds(&rule->turn)) {
			queue_leave(&rule->turn);
			queue_append(&rules->asking, &rule->turn);
		}
	}
}

int members_next_wanted(struct rules *rules, struct member_key *key)
{
	if (rules->wanted_taken == rules->wanted_count) {
		rules->wanted_taken = rules->wanted_count = 0;
		return 0;
	}
	*key = rules->wanted[rules->wanted_taken++];
	return 1;
}

void members_expire(struct rules *rules)
{
	const struct waiting_packet *packet;

	while ((packet = waiting_oldest(&rules->waiting)) && rules->now - packet->since >= WAITING_NS) {
		struct member *member = QUEUE_OWNER(packet->queue, struct member, waiting);

		give_up_first(rules, member);
		if (member->state == MEMBER_NEW && !member->waiting.first)
			free_member(rules, member);
	}
}

uint64_t members_sleep(const struct rules *rules)
{
	const struct waiting_packet *packet = waiting_oldest(&rules->waiting);
	uint64_t waited;

	if (!packet)
		return 0;
	if (!queue_is_empty(&rules->asking) && rules->unanswered < WANTED_AT_ONCE)
		return RETRY_NS;
	waited = rules->now - packet->since;
	return waited < WAITING_NS ? WAITING_NS - waited : 1;
}

struct member *members_ready(const struct rules *rules)
{
	return queue_is_empty(&rules->ready) ? NULL : QUEUE_OWNER(rules->ready.next, struct member, place);
}

void members_end_waiting(struct rules *rules, struct member *member)
{
	while (member->waiting.first)
		waiting_end(&rules->waiting, &member->waiting);
	leave_queue(member);
}

int members_put(struct rules *rules, const struct member_key *wanted, uint64_t *last_used, const uint32_t *sockets,
		uint32_t socket_count)
{
	struct rule *rule = wanted->slot < MCRD_RULE_SLOTS ? rules->by_slot[wanted->slot] : NULL;
	struct key key = key_of(wanted);
	struct member *member;
	uint32_t i, next = 0;

	if (!rule)
		return -ENOENT;
	if (socket_count != rule->member_outputs)
		return -EINVAL;
	member = (struct member *)table_find(&rules->members, &key);
	if (!member)
		member = new_member(rules, rule, wanted);
	if (!member)
		return -ENOMEM;
	if (member->state != MEMBER_OPEN) {
		leave_queue(member);
		rules->unanswered -= member->state == MEMBER_ASKED;
		member->state = MEMBER_OPEN;
		if (member->waiting.first)
			queue_append(&rules->ready, &member->place);
		/* It is in use: else it would be the first to make room for others. */
		if (member->came)
			__atomic_store_n(last_used, member->came, __ATOMIC_RELAXED);
	}
	member->last_used = last_used;
	for (i = 0; i < rule->output_count; i++)
		if (rule->outputs[i].socket == MCRD_BY_MEMBER) {
			member->outputs[next].socket = sockets[next];
			member->outputs[next++].counters = rule->outputs[i].counters;
		}
	return 0;
}

int members_remove(struct rules *rules, const struct member_key *wanted)
{
	struct key key = key_of(wanted);
	struct member *member = (struct member *)table_find(&rules->members, &key);

	if (!member || wanted->slot >= MCRD_RULE_SLOTS) /* a larger one looks like a source port */
		return -ENOENT;
	free_member(rules, member);
	return 0;
}

/* One for which there is no memory is asked for again. */
void members_keep(struct rules *rules, const struct rule *old, struct rule *rule, const uint32_t *kept)
{
	const struct member *member;
	uint32_t i, next;

	for (member = old->members; member; member = member->next) {
		struct member *again =
			member->state == MEMBER_OPEN ? new_member(rules, rule, &member->wanted) : NULL;

		if (!again)
			continue;
		again->state = MEMBER_OPEN;
		again->last_used = member->last_used;
		for (i = next = 0; i < rule->output_count; i++) {
			if (rule->outputs[i].socket != MCRD_BY_MEMBER)
				continue;
			again->outputs[next].socket =
				kept[next] < old->member_outputs ? member->outputs[kept[next]].socket : MCRD_BY_MEMBER;
			again->outputs[next++].counters = rule->outputs[i].counters;
		}
	}
}

void members_free(struct rules *rules, struct rule *rule)
{
	while (rule->members)
		free_member(rules, rule->members);
}
