/* members.c: who is asked for, in which order and how many, and what waits meanwhile.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "members.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "samples.h"

#define SECOND 1000000000ULL
#define BEGAN 1700000000000000000ULL

enum { OUTPUTS = 3, BY_MEMBER = 2 };

static struct output_counters counters[OUTPUTS];

/* A rule of 239.1.0.0/16, ports 5000 to 5009, whose first and last output go by member. */
static void put_by_member(struct rules *rules, uint32_t slot, uint8_t by_source)
{
	struct rule_match match = match_of(4, (const uint8_t[16]){ 239, 1 }, 16, 5000, 5009);
	struct rule *rule;
	uint32_t i;

	match.by_source = by_source;
	put_rule(rules, slot, &match, NULL, OUTPUTS);
	rule = rules->by_slot[slot];
	rule->member_outputs = BY_MEMBER;
	for (i = 0; i < OUTPUTS; i++) {
		rule->outputs[i].socket = i == 1 ? 9 : MCRD_BY_MEMBER;
		rule->outputs[i].counters = &counters[i];
	}
}

static struct sample member_number(uint32_t number)
{
	struct sample sample = sample_of(4);

	sample.destination[2] = (uint8_t)(number >> 8);
	sample.destination[3] = (uint8_t)number;
	return sample;
}

/* A packet comes: the member, if it is open. Else it waits, and the supervisor is asked if that may be. */
static struct member *member_of(struct rules *rules, uint32_t slot, const struct sample *sample, uint64_t now)
{
	struct held held = hold(sample);
	struct rule *rule = rules->by_slot[slot];
	struct member *member = members_find(rules, rule, &held.packet, now);

	rules->now = now;
	if (!member || member->state != MEMBER_OPEN) {
		members_wait(rules, rule, member, &held.packet, (const uint8_t *)"x", 1, now);
		member = NULL;
	}
	members_ask(rules);
	let_go(&held);
	return member;
}

static struct member_key key_of(uint32_t slot, const struct sample *sample, int by_source)
{
	struct member_key key = { .slot = slot, .destination = { .port = sample->port, .family = sample->family } };

	memcpy(key.destination.address, sample->destination, 16);
	if (by_source) {
		key.source.port = sample->source_port;
		key.source.family = sample->family;
		memcpy(key.source.address, sample->source, 16);
	}
	return key;
}

static void check_key(const struct member_key *key, const struct member_key *wanted)
{
	CHECK_EQUAL(key->slot, wanted->slot);
	CHECK_EQUAL(key->destination.port, wanted->destination.port);
	CHECK_EQUAL(key->destination.family, wanted->destination.family);
	CHECK(memcmp(key->destination.address, wanted->destination.address, 16) == 0);
	CHECK_EQUAL(key->source.port, wanted->source.port);
	CHECK_EQUAL(key->source.family, wanted->source.family);
	CHECK(memcmp(key->source.address, wanted->source.address, 16) == 0);
}

/* What is wanted, taken off the list. */
static uint32_t taken_off(struct rules *rules)
{
	struct member_key key;
	uint32_t count = 0;

	while (members_next_wanted(rules, &key))
		count++;
	return count;
}

/* The last output of the rule sends no packet of that source, and one in two of others. */
static void test_outputs_choose(void)
{
	static const struct source_run others[] = { { { 0 }, { 10, 1, 2, 2 } },
						    { { 10, 1, 2, 4 }, { 255, 255, 255, 255 } } };
	static const uint32_t sockets[] = { 11, 12 };
	struct rules *rules = check_allocate(sizeof(*rules));
	struct sample sample = sample_of(4), other = sample;
	struct member_key key = key_of(5, &sample, 1);
	uint64_t last_used = 0;
	struct member *member;
	uint32_t i;

	check_about("outputs that choose");
	memset(counters, 0, sizeof(counters));
	CHECK_EQUAL(rules_init(rules), 0);
	put_by_member(rules, 5, 1);
	rules->by_slot[5]->outputs[2].choice = choice_new(63, 2, 4, others, 2);

	/* The member is wanted by the first output alone. */
	for (i = 0; i < 3; i++)
		CHECK(member_of(rules, 5, &sample, i) == NULL);
	CHECK_EQUAL(taken_off(rules), 1);
	CHECK_EQUAL(counters[0].waiting, 3);
	CHECK_EQUAL(counters[2].waiting, 0);
	CHECK_EQUAL(counters[2].skipped.not_wanted, 3);
	CHECK_EQUAL(members_put(rules, &key, &last_used, sockets, BY_MEMBER), 0);
	member = members_ready(rules);
	CHECK(member != NULL);
	CHECK(members_is_for(&rules->by_slot[5]->outputs[0], member->waiting.first->skipping));
	CHECK(!members_is_for(&rules->by_slot[5]->outputs[2], member->waiting.first->skipping));
	members_end_waiting(rules, member);

	/* Of what is given up, each output has what it chose. */
	other.source[3]++;
	for (i = 0; i < 4; i++)
		CHECK(member_of(rules, 5, &other, i) == NULL);
	CHECK_EQUAL(counters[2].waiting, 2);
	CHECK_EQUAL(counters[2].skipped.not_sampled, 2);
	CHECK_EQUAL(rules_remove(rules, 5), 0);
	CHECK_EQUAL(counters[0].dropped.new_member, 4);
	CHECK_EQUAL(counters[2].dropped.new_member, 2);
	CHECK_EQUAL(counters[0].waiting + counters[2].waiting, 3); /* those of before, which were sent */

	/* What no output wants asks for no member. */
	memset(counters, 0, sizeof(counters));
	put_by_member(rules, 5, 1);
	for (i = 0; i < OUTPUTS; i++)
		rules->by_slot[5]->outputs[i].choice = choice_new(i, 1, 4, others, 2);
	CHECK(member_of(rules, 5, &sample, 9) == NULL);
	CHECK(rules->by_slot[5]->members == NULL);
	CHECK_EQUAL(counters[0].skipped.not_wanted, 1);
	CHECK_EQUAL(counters[0].waiting, 0);
	CHECK_EQUAL(counters[1].skipped.not_wanted, 0); /* it goes by no member: relay() asks it */
	rules_free(rules);
	free(rules);
	memset(counters, 0, sizeof(counters));
}

static uint64_t waiting_now(void)
{
	CHECK_EQUAL(counters[0].waiting, counters[2].waiting);
	return counters[0].waiting;
}

static void test_member_life(uint8_t by_source)
{
	static const uint32_t sockets[] = { 11, MCRD_BY_MEMBER };
	struct rules *rules = check_allocate(sizeof(*rules));
	struct sample sample = sample_of(4), other = sample;
	struct member_key key = key_of(5, &sample, by_source);
	uint64_t now = 1700000000000000000ULL, last_used = 0;
	struct member *member;
	uint32_t i;

	check_about(by_source ? "a member by source" : "a member");
	CHECK_EQUAL(rules_init(rules), 0);
	put_by_member(rules, 5, by_source);

	/* Wanted once, however many packets come. */
	for (i = 0; i < 5; i++)
		CHECK(member_of(rules, 5, &sample, now++) == NULL);
	CHECK_EQUAL(rules->wanted_count, 1);
	check_key(&rules->wanted[0], &key);
	CHECK_EQUAL(taken_off(rules), 1);
	CHECK(member_of(rules, 5, &sample, now++) == NULL);
	CHECK_EQUAL(rules->wanted_count, 0);

	/* Another source, or another port of its, is another member only where rules go by that. */
	other.source[3]++;
	CHECK(member_of(rules, 5, &other, now++) == NULL);
	other.source[3]--;
	other.source_port++;
	CHECK(member_of(rules, 5, &other, now++) == NULL);
	CHECK_EQUAL(taken_off(rules), by_source ? 2 : 0);

	/* Used: its sockets in the order of the outputs, the outputs' counters, and the time. */
	CHECK_EQUAL(members_put(rules, &key, &last_used, sockets, 1), -EINVAL);
	CHECK_EQUAL(members_put(rules, &key, &last_used, sockets, 3), -EINVAL);
	CHECK(member_of(rules, 5, &sample, now++) == NULL);
	CHECK_EQUAL(members_put(rules, &key, &last_used, sockets, BY_MEMBER), 0);
	CHECK_EQUAL(last_used, now - 1); /* when the last one came that waits */
	member = member_of(rules, 5, &sample, ++now);
	CHECK(member != NULL);
	CHECK_EQUAL(last_used, now);
	if (member) {
		CHECK_EQUAL(member->outputs[0].socket, 11);
		CHECK(member->outputs[0].counters == &counters[0]);
		CHECK_EQUAL(member->outputs[1].socket, MCRD_BY_MEMBER);
		CHECK(member->outputs[1].counters == &counters[2]);
	}
	CHECK((member_of(rules, 5, &other, ++now) != NULL) == !by_source);
	CHECK_EQUAL(last_used, by_source ? now - 1 : now);
	taken_off(rules);

	/* Put again in its place, with other sockets. */
	CHECK_EQUAL(members_put(rules, &key, &last_used, (const uint32_t[]){ 12, 13 }, BY_MEMBER), 0);
	CHECK(member_of(rules, 5, &sample, ++now) == member);
	if (member)
		CHECK_EQUAL(member->outputs[1].socket, 13);

	/* Nobody has joined what one of its outputs would send to. */
	CHECK_EQUAL(members_put(rules, &key, &last_used, (const uint32_t[]){ 12, MCRD_UNWANTED }, BY_MEMBER), 0);
	if (member) {
		struct rule *rule = rules->by_slot[5];
		uint64_t before = counters[2].skipped.not_wanted, failed = 0;
		uint32_t next = 0;

		CHECK(members_outlet(&rule->outputs[0], member, &next, sample.source, &failed) == &member->outputs[0]);
		CHECK(members_outlet(&rule->outputs[2], member, &next, sample.source, &failed) == NULL);
		CHECK_EQUAL(counters[2].skipped.not_wanted, before + 1);
		CHECK_EQUAL(failed, 0);
	}
	CHECK_EQUAL(members_put(rules, &key, &last_used, (const uint32_t[]){ 12, 13 }, BY_MEMBER), 0);

	/* Removed: wanted again with its next packet. */
	CHECK_EQUAL(members_remove(rules, &key), 0);
	CHECK_EQUAL(members_remove(rules, &key), -ENOENT);
	CHECK(member_of(rules, 5, &sample, ++now) == NULL);
	CHECK_EQUAL(rules->wanted_count, 1);
	check_key(&rules->wanted[0], &key);
	taken_off(rules);

	/* What is wanted is removed too: that is how it is refused. */
	CHECK_EQUAL(members_remove(rules, &key), 0);
	CHECK(member_of(rules, 5, &sample, ++now) == NULL);
	CHECK_EQUAL(taken_off(rules), 1);

	/* Put unasked, as of a worker that begins. */
	CHECK_EQUAL(members_remove(rules, &key), 0);
	CHECK_EQUAL(members_put(rules, &key, &last_used, sockets, BY_MEMBER), 0);
	CHECK(member_of(rules, 5, &sample, ++now) != NULL);

	/* Of no rule. */
	key.slot = 6;
	CHECK_EQUAL(members_put(rules, &key, &last_used, sockets, BY_MEMBER), -ENOENT);
	CHECK_EQUAL(members_remove(rules, &key), -ENOENT);
	key.slot = MCRD_RULE_SLOTS;
	CHECK_EQUAL(members_put(rules, &key, &last_used, sockets, BY_MEMBER), -ENOENT);
	CHECK_EQUAL(members_remove(rules, &key), -ENOENT);

	/* Freed with its rule, and with the rule's old form. */
	put_by_member(rules, 5, by_source);
	CHECK_EQUAL(rules->members.count, 0);
	CHECK(member_of(rules, 5, &sample, ++now) == NULL);
	CHECK_EQUAL(taken_off(rules), 1);
	CHECK_EQUAL(rules_remove(rules, 5), 0);
	CHECK_EQUAL(rules->members.count, 0);
	rules_free(rules);
	free(rules);
}

/* A key of a slot that is none, whose bits are those of another member's source port. */
/* A rule's new form: members that are open stay, with the sockets of the outputs that stay. */
static void test_members_that_stay(void)
{
	enum { MEMBERS = 300 };
	static const uint32_t kept[BY_MEMBER] = { 1, MCRD_BY_MEMBER };
	struct rules *rules = check_allocate(sizeof(*rules));
	uint64_t now = 1700000000000000000ULL, last_used[MEMBERS] = { 0 };
	struct sample waiting = member_number(MEMBERS);
	struct rule *rule;
	uint32_t i, round;

	check_about("members that stay");
	CHECK_EQUAL(rules_init(rules), 0);
	put_by_member(rules, 5, 0);
	for (i = 0; i < MEMBERS; i++) {
		struct sample sample = member_number(i);
		struct member_key key = key_of(5, &sample, 0);

		CHECK_EQUAL(members_put(rules, &key, &last_used[i], (const uint32_t[]){ 1000 + i, 2000 + i }, 2), 0);
	}
	CHECK(member_of(rules, 5, &waiting, now++) == NULL);
	CHECK_EQUAL(rules->unanswered, 1);
	for (round = 0; round < 2; round++) {
		struct rule_match match = rules->by_slot[5]->match;

		/* As put_by_member(), which has no place for what is kept. */
		rule = rule_new(&match, NULL, OUTPUTS);
		if (!rule)
			abort();
		rule->slot = 5;
		rule->member_outputs = BY_MEMBER;
		for (i = 0; i < OUTPUTS; i++) {
			rule->outputs[i].socket = i == 0 ? 9 : MCRD_BY_MEMBER;
			rule->outputs[i].counters = &counters[OUTPUTS - 1 - i];
		}
		rules_put(rules, rule, kept);
		CHECK_EQUAL(rules->members.count, MEMBERS);
		CHECK_EQUAL(rules->unanswered, 0);
		for (i = 0; i < MEMBERS; i++) {
			struct sample sample = member_number(i);
			struct member *member = member_of(rules, 5, &sample, now);

			CHECK(member && member->rule == rule);
			if (!member)
				continue;
			CHECK_EQUAL(last_used[i], now++);
			/* The second one's socket became the first one's; after that there is none to keep. */
			CHECK_EQUAL(member->outputs[0].socket, round == 0 ? 2000 + i : MCRD_BY_MEMBER);
			CHECK_EQUAL(member->outputs[1].socket, MCRD_BY_MEMBER);
			CHECK(member->outputs[0].counters == &counters[1]);
			CHECK(member->outputs[1].counters == &counters[0]);
		}
	}
	/* The one that nobody had answered for is asked for again. */
	CHECK(member_of(rules, 5, &waiting, now++) == NULL);
	CHECK_EQUAL(rules->unanswered, 1);
	/* Without a word about them they go. */
	put_by_member(rules, 5, 0);
	CHECK_EQUAL(rules->members.count, 0);
	CHECK_EQUAL(rules->unanswered, 0);
	rules_free(rules);
	free(rules);
}

static void test_a_member_of_no_slot(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	struct sample sample = sample_of(4);
	struct member_key key = key_of(5, &sample, 1), forged = key;
	uint64_t last_used = 0;

	check_about("a member of no slot");
	CHECK_EQUAL(rules_init(rules), 0);
	put_by_member(rules, 5, 1);
	CHECK_EQUAL(members_put(rules, &key, &last_used, (const uint32_t[]){ 1, 2 }, BY_MEMBER), 0);
	forged.slot = 5 | (uint32_t)key.source.port << 16;
	forged.source.port = 0;
	CHECK_EQUAL(members_remove(rules, &forged), -ENOENT);
	CHECK(member_of(rules, 5, &sample, 1) != NULL);
	rules_free(rules);
	free(rules);
}

/* What the packets of a ready member say, in their order; they have been sent then. */
static uint32_t sent(struct rules *rules, uint32_t *numbers, uint32_t room)
{
	struct member *member = members_ready(rules);
	const struct waiting_packet *packet;
	uint32_t count = 0, i;

	if (!member)
		return 0;
	for (packet = member->waiting.first; packet; packet = packet->next) {
		CHECK_EQUAL(packet->length, sizeof(*numbers));
		if (count < room)
			memcpy(&numbers[count], packet->payload, sizeof(*numbers));
		count++;
	}
	for (i = 0; i < OUTPUTS; i++) /* as late.c does */
		if (i != 1)
			counters[i].waiting -= count;
	members_end_waiting(rules, member);
	return count;
}

/* A numbered packet of a member comes, and waits or not. */
static void comes(struct rules *rules, uint32_t slot, const struct sample *sample, uint32_t number)
{
	struct held held = hold(sample);
	struct rule *rule = rules->by_slot[slot];
	struct member *member = members_find(rules, rule, &held.packet, rules->now);

	members_wait(rules, rule, member, &held.packet, (const uint8_t *)&number, sizeof(number), rules->now);
	let_go(&held);
}

/* As many as waited, in their order, once. */
static void test_what_waits_is_kept_in_order(void)
{
	enum { MEMBERS = 7, PACKETS = 1400 };
	struct rules *rules = check_allocate(sizeof(*rules));
	static const uint32_t sockets[BY_MEMBER] = { 1, 2 };
	uint64_t used = 0;
	uint32_t numbers[PACKETS], i, j;
	struct member_key key;

	check_about("order");
	memset(counters, 0, sizeof(counters));
	CHECK_EQUAL(rules_init(rules), 0);
	put_by_member(rules, 5, 0);
	rules->now = BEGAN;
	for (i = 0; i < PACKETS; i++) {
		struct sample sample = member_number(i % MEMBERS);

		comes(rules, 5, &sample, i);
	}
	CHECK_EQUAL(waiting_now(), PACKETS);
	CHECK_EQUAL(counters[1].waiting, 0); /* the output with a socket of its own */
	members_ask(rules);
	for (i = 0; i < MEMBERS; i++) { /* asked for in the order in which they came */
		struct sample sample = member_number(i);
		struct member_key wanted = key_of(5, &sample, 0);

		CHECK(members_next_wanted(rules, &key));
		check_key(&key, &wanted);
		CHECK(members_ready(rules) == NULL);
		CHECK_EQUAL(members_put(rules, &key, &used, sockets, BY_MEMBER), 0);
		CHECK_EQUAL(sent(rules, numbers, PACKETS), PACKETS / MEMBERS);
		for (j = 0; j < PACKETS / MEMBERS; j++)
			CHECK_EQUAL(numbers[j], j * MEMBERS + i);
	}
	CHECK_EQUAL(members_next_wanted(rules, &key), 0);
	CHECK_EQUAL(waiting_now(), 0);
	CHECK_EQUAL(counters[0].dropped.new_member, 0);
	CHECK_EQUAL(rules->waiting.used, 0);
	CHECK_EQUAL(members_sleep(rules), 0);
	rules_free(rules);
	free(rules);
}

static void prepare(struct rules *rules, uint32_t slot, uint32_t number)
{
	struct sample sample = member_number(number);
	struct held held = hold(&sample);

	members_prepare(rules, rules->by_slot[slot], &held.packet, rules->now);
	let_go(&held);
}

/* The sockets of members for which nothing waits: no more than may be asked for at once, and after those that are waited
 * for. */
static void test_members_are_prepared(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	static const uint32_t sockets[BY_MEMBER] = { 1, 2 };
	struct sample waited_for = member_number(1000);
	struct member_key key;
	uint64_t used = 0;
	uint32_t i, open;

	check_about("prepared");
	CHECK_EQUAL(rules_init(rules), 0);
	put_by_member(rules, 5, 0);
	rules->now = BEGAN;
	for (open = 0; open < 200; rules->now += SECOND) {
		for (i = 0; i < 400; i++)
			prepare(rules, 5, i % 200);
		CHECK(rules->members.count <= open + WANTED_AT_ONCE);
		CHECK(rules->members.count > open);
		while (members_next_wanted(rules, &key)) {
			CHECK_EQUAL(members_put(rules, &key, &used, sockets, BY_MEMBER), 0);
			CHECK_EQUAL(used, rules->now);
			open++;
		}
	}
	CHECK_EQUAL(rules->members.count, 200);
	CHECK_EQUAL(rules->unanswered, 0);
	CHECK(members_ready(rules) == NULL);
	/* Once is enough to be in use. */
	prepare(rules, 5, 999);
	CHECK(members_next_wanted(rules, &key));
	used = 0;
	CHECK_EQUAL(members_put(rules, &key, &used, sockets, BY_MEMBER), 0);
	CHECK_EQUAL(used, rules->now);
	comes(rules, 5, &waited_for, 0);
	for (i = 2000; i < 2010; i++)
		prepare(rules, 5, i);
	members_ask(rules);
	CHECK_EQUAL(taken_off(rules), 1);
	rules_free(rules);
	free(rules);
}

static void test_what_cannot_be_had_is_counted(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	struct sample sample = member_number(1), other = member_number(2);
	struct member_key key = key_of(5, &sample, 0), second = key_of(5, &other, 0);
	uint32_t i;

	check_about("refused");
	memset(counters, 0, sizeof(counters));
	CHECK_EQUAL(rules_init(rules), 0);
	put_by_member(rules, 5, 0);
	rules->now = BEGAN;
	for (i = 0; i < 10; i++)
		comes(rules, 5, i % 2 ? &sample : &other, i);
	members_ask(rules);
	CHECK_EQUAL(taken_off(rules), 2);
	/* One is refused: all that waits for it goes at once. */
	CHECK_EQUAL(members_remove(rules, &key), 0);
	CHECK_EQUAL(counters[0].dropped.new_member, 5);
	CHECK_EQUAL(counters[1].dropped.new_member, 0);
	CHECK_EQUAL(counters[2].dropped.new_member, 5);
	CHECK_EQUAL(waiting_now(), 5);
	CHECK_EQUAL(rules->unanswered, 1);
	/* It is asked for again with its next packet. */
	comes(rules, 5, &sample, 0);
	members_ask(rules);
	CHECK_EQUAL(taken_off(rules), 1);
	/* The others have waited too long; who is asked for stays so. */
	rules->now += WAITING_NS - 1;
	members_expire(rules);
	CHECK_EQUAL(waiting_now(), 6);
	CHECK_EQUAL(members_sleep(rules), 1);
	rules->now++;
	members_expire(rules);
	CHECK_EQUAL(waiting_now(), 0);
	CHECK_EQUAL(counters[2].dropped.new_member, 11);
	CHECK_EQUAL(rules->members.count, 2);
	CHECK_EQUAL(rules->unanswered, 2);
	CHECK_EQUAL(members_remove(rules, &second), 0);
	CHECK_EQUAL(members_remove(rules, &key), 0);
	/* One that nobody was asked for yet goes with its last packet. */
	comes(rules, 5, &sample, 0);
	comes(rules, 5, &other, 0);
	rules->now += SECOND;
	comes(rules, 5, &sample, 0);
	rules->now += WAITING_NS - SECOND;
	members_expire(rules);
	CHECK_EQUAL(rules->members.count, 1);
	CHECK_EQUAL(waiting_now(), 1);
	members_ask(rules);
	CHECK_EQUAL(taken_off(rules), 1);
	/* A rule takes with it what waits. */
	put_by_member(rules, 5, 0);
	CHECK_EQUAL(waiting_now(), 0);
	CHECK_EQUAL(counters[0].dropped.new_member, 14);
	CHECK_EQUAL(rules->unanswered, 0);
	CHECK_EQUAL(rules->waiting.used, 0);
	comes(rules, 5, &sample, 0);
	CHECK_EQUAL(rules_remove(rules, 5), 0);
	CHECK_EQUAL(counters[0].dropped.new_member, 15);
	CHECK(queue_is_empty(&rules->asking));
	rules_free(rules);
	free(rules);
}

/* Answers what is wanted, and sends what waits, as supervisor and worker do. */
static uint32_t answered(struct rules *rules)
{
	static const uint32_t sockets[BY_MEMBER];
	static uint64_t used;
	struct member_key key;
	uint32_t count = 0;

	while (members_next_wanted(rules, &key)) {
		CHECK_EQUAL(members_put(rules, &key, &used, sockets, BY_MEMBER), 0);
		CHECK_EQUAL(sent(rules, NULL, 0), 1);
		count++;
	}
	return count;
}

static void test_members_are_bounded(void)
{
	enum { ROOM = WAITING_BYTES / WAITING_LEAST, ALONE = ROOM / 2, BESIDE = ROOM / 4, MANY = 20000 };
	struct rules *rules = check_allocate(sizeof(*rules));
	uint32_t i, total = 0, of_second = 0, rounds;
	struct sample sample = member_number(0);
	struct member_key key;

	check_about("bounds");
	memset(counters, 0, sizeof(counters));
	CHECK_EQUAL(rules_init(rules), 0);
	put_by_member(rules, 5, 0);
	put_by_member(rules, 6, 0);
	rules->now = BEGAN;
	/* A flood of one rule leaves room for another. */
	for (i = 0; i < MANY; i++) {
		sample = member_number(i);
		comes(rules, 5, &sample, i);
	}
	CHECK_EQUAL(rules->members.count, ALONE);
	CHECK_EQUAL(waiting_now(), ALONE);
	CHECK_EQUAL(counters[0].dropped.new_member, MANY - ALONE);
	for (i = 0; i < MANY; i++) {
		sample = member_number(i);
		comes(rules, 6, &sample, i);
	}
	CHECK_EQUAL(rules->members.count, ALONE + BESIDE);
	/* At once; and they take turns. */
	members_ask(rules);
	CHECK_EQUAL(rules->unanswered, WANTED_AT_ONCE);
	for (i = 0; i < WANTED_AT_ONCE; i++) {
		CHECK(members_next_wanted(rules, &key));
		CHECK_EQUAL(key.slot, 5 + i % 2);
	}
	CHECK_EQUAL(members_next_wanted(rules, &key), 0);
	CHECK_EQUAL(members_sleep(rules), WAITING_NS); /* the answers will come */
	members_ask(rules);
	CHECK_EQUAL(taken_off(rules), 0);
	CHECK_EQUAL(rules_remove(rules, 6), 0);
	CHECK_EQUAL(rules_remove(rules, 5), 0);
	CHECK_EQUAL(rules->members.count, 0);
	CHECK_EQUAL(rules->waiting.used, 0);

	/* In a second: however fast the answers are. */
	put_by_member(rules, 5, 0);
	rules->now += 2 * SECOND;
	for (i = 0; i < ALONE; i++) {
		sample = member_number(i);
		comes(rules, 5, &sample, i);
	}
	for (rounds = 0; rounds < 3999; rounds++) {
		members_ask(rules);
		of_second += rounds < 1000 ? answered(rules) : 0;
		total += rounds < 1000 ? 0 : answered(rules);
		rules->now += SECOND / 1000;
	}
	CHECK_EQUAL(of_second, WANTED_A_SECOND);
	CHECK(total >= 2 * WANTED_A_SECOND);
	CHECK(total <= 3 * WANTED_A_SECOND);
	CHECK_EQUAL(members_sleep(rules), 5000000); /* there are more to ask for */
	rules_free(rules);
	free(rules);
}

/* No more than may be wanted at once. */
enum { MEMBER_RULES = 4, MEMBER_NUMBERS = 16 };

enum state { ABSENT, WANTED, OPEN };

static void test_members_against_a_model(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	static enum state states[MEMBER_RULES][MEMBER_NUMBERS];
	static uint64_t used[MEMBER_RULES][MEMBER_NUMBERS], expected[MEMBER_RULES][MEMBER_NUMBERS],
		came[MEMBER_RULES][MEMBER_NUMBERS];
	uint64_t random = 21, now = 1700000000000000000ULL;
	uint32_t step, slot, number, i;

	check_about("members");
	CHECK_EQUAL(rules_init(rules), 0);
	for (slot = 0; slot < MEMBER_RULES; slot++)
		put_by_member(rules, slot, slot % 2);
	for (step = 0; step < 50000; step++) {
		struct sample sample;
		struct member_key key;
		struct member *member;
		enum state *state;
		uint32_t count = 0;

		slot = check_random(&random) % MEMBER_RULES;
		number = check_random(&random) % MEMBER_NUMBERS;
		state = &states[slot][number];
		sample = member_number(number / 4);
		sample.port = (uint16_t)(5000 + number % 2);
		/* By source, the same destination twice; else another destination. */
		if (slot % 2)
			sample.source_port = (uint16_t)(40000 + number / 2 % 2);
		else
			sample.destination[2] = (uint8_t)(number / 2 % 2);
		key = key_of(slot, &sample, slot % 2);
		now += 1000000;
		switch (check_random(&random) % 16) {
		case 0:
			if (check_random(&random) % 8)
				break;
			put_by_member(rules, slot, slot % 2);
			memset(states[slot], 0, sizeof(states[slot]));
			break;
		case 1:
		case 2:
		case 3:
			CHECK_EQUAL(members_remove(rules, &key), *state == ABSENT ? -ENOENT : 0);
			*state = ABSENT;
			break;
		case 4:
		case 5:
		case 6:
			CHECK_EQUAL(members_put(rules, &key, &used[slot][number],
						     (const uint32_t[]){ number, slot }, BY_MEMBER), 0);
			if (*state == WANTED)
				expected[slot][number] = came[slot][number];
			*state = OPEN;
			break;
		default:
			member = member_of(rules, slot, &sample, now);
			CHECK_EQUAL(member != NULL, *state == OPEN);
			if (member) {
				CHECK_EQUAL(member->outputs[0].socket, number);
				CHECK_EQUAL(member->outputs[1].socket, slot);
				expected[slot][number] = now;
			} else {
				came[slot][number] = now;
			}
			CHECK_EQUAL(taken_off(rules), *state == ABSENT);
			if (*state == ABSENT)
				*state = WANTED;
			break;
		}
		CHECK_EQUAL(used[slot][number], expected[slot][number]);
		for (i = 0; i < MEMBER_RULES * MEMBER_NUMBERS; i++)
			count += states[i / MEMBER_NUMBERS][i % MEMBER_NUMBERS] != ABSENT;
		CHECK_EQUAL(rules->members.count, count);
	}
	rules_free(rules);
	free(rules);
}

int main(void)
{
	test_outputs_choose();
	test_member_life(0);
	test_member_life(1);
	test_members_that_stay();
	test_a_member_of_no_slot();
	test_what_waits_is_kept_in_order();
	test_members_are_prepared();
	test_what_cannot_be_had_is_counted();
	test_members_are_bounded();
	test_members_against_a_model();
	return check_result();
}
