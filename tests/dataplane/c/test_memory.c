/* What is said when there is no memory, whichever allocation fails; nothing of what was begun stays. Sources are included here,
 * with a calloc() that fails when it is to.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include <stdlib.h>

static int left; /* allocations that succeed before one fails; below 0: all do */

static void *give(size_t count, size_t size)
{
	return left-- == 0 ? NULL : calloc(count, size);
}

#define calloc give
#include "limit.c"
#include "members.c"
#include "merge.c"
#include "rules.c"
#include "switch.c"
#include "table.c"
#undef calloc

#include "check.h"

static const struct rule_match match = {
	.first = { .address = { 239, 1, 1, 1 }, .port = 5000, .family = 4 },
	.bits = 32,
	.protocol = 17,
	.last_port = 5000,
	.packets_per_second = 10,
	.also_count = 1,
};
static const struct network network = { .address = { 239, 1, 1, 2 }, .bits = 32 };

static struct rules *new_rules(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));

	left = -1;
	CHECK_EQUAL(rules_init(rules), 0);
	return rules;
}

static void end(struct rules *rules)
{
	left = -1;
	rules_free(rules);
	free(rules);
}

static void test_rules(void)
{
	enum { ALLOCATIONS = 4 }; /* a limit, and three tables */
	struct rules *rules = check_allocate(sizeof(*rules));
	int i;

	check_about("rules");
	for (i = 0; i < ALLOCATIONS; i++) {
		left = i;
		CHECK_EQUAL(rules_init(rules), -ENOMEM);
	}
	left = i;
	CHECK_EQUAL(rules_init(rules), 0);
	end(rules);
}

static void test_a_rule(void)
{
	enum { ALLOCATIONS = 4 }; /* itself, its networks, its places, its limit */
	struct rule *rule;
	int i;

	check_about("a rule");
	for (i = 0; i < ALLOCATIONS; i++) {
		left = i;
		CHECK(rule_new(&match, &network, 2) == NULL);
	}
	left = i;
	rule = rule_new(&match, &network, 2);
	CHECK(rule != NULL);
	if (rule)
		rule_free(rule);
}

static void test_an_own_source(void)
{
	const struct endpoint source = { .address = { 10, 1, 2, 3 }, .port = 40000, .family = 4 };
	struct rules *rules = new_rules();

	check_about("an own source");
	left = 0;
	CHECK_EQUAL(rules_own(rules, &source, 1), -ENOMEM);
	CHECK_EQUAL(rules->own.count, 0);
	CHECK_EQUAL(rules_own(rules, &source, 1), 0);
	CHECK_EQUAL(rules->own.count, 1);
	end(rules);
}

static void test_a_member(void)
{
	const struct member_key key = { .slot = 5, .destination = match.first };
	struct rules *rules = new_rules();
	struct output_counters counters = { 0 };
	struct rule *rule = rule_new(&match, &network, 1);
	const uint32_t sockets[] = { 1 };
	uint64_t used = 0;

	check_about("a member");
	if (!rule)
		abort();
	rule->slot = key.slot;
	rule->member_outputs = 1;
	rule->outputs[0].socket = MCRD_BY_MEMBER;
	rule->outputs[0].counters = &counters;
	rules_put(rules, rule, NULL);
	left = 0;
	CHECK_EQUAL(members_put(rules, &key, &used, sockets, 1), -ENOMEM);
	CHECK_EQUAL(rules->members.count, 0);
	CHECK_EQUAL(members_put(rules, &key, &used, sockets, 1), 0);
	CHECK_EQUAL(rules->members.count, 1);
	end(rules);
}

static void test_streams(void)
{
	const struct merge_settings merged = { .stream = 7, .by = MERGE_CONTENT };
	const struct switch_settings switched = { .copies = { .stream = 7 }, .silence = 1000000000 };
	struct merge_counters merges = { 0 };
	struct switch_counters switches = { 0 };
	struct merge_stream *merge = NULL;
	struct switch_stream *choice = NULL;

	check_about("streams");
	left = 0;
	CHECK(merge_join(&merge, &merged, &merges) == NULL);
	CHECK(merge == NULL);
	left = 0;
	CHECK(switch_join(&choice, &switched, &switches, 1) == NULL);
	CHECK(choice == NULL);
	CHECK(merge_join(&merge, &merged, &merges) != NULL);
	CHECK(switch_join(&choice, &switched, &switches, 1) != NULL);
	merge_leave(&merge, merge, &merges);
	switch_leave(&choice, choice, &switches);
	CHECK(!merge && !choice);
}

/* It is slower then, and nothing else. */
static void test_a_table_that_cannot_grow(void)
{
	enum { ENTRIES = 3 * FIRST_BUCKETS };
	struct table table;
	struct key key = { .words = { 0 } };
	uint32_t i;

	check_about("a table");
	left = 0;
	CHECK_EQUAL(table_init(&table), -ENOMEM);
	table_free(&table);
	CHECK_EQUAL(table_init(&table), 0);
	for (i = 0; i < ENTRIES; i++) {
		struct entry *entry = check_allocate(sizeof(*entry));

		key.words[0] = i;
		entry->key = key;
		left = i < ENTRIES - 1 ? 0 : -1;
		table_add(&table, entry);
		CHECK_EQUAL(table.mask, i < ENTRIES - 1 ? FIRST_BUCKETS - 1 : 2 * FIRST_BUCKETS - 1);
	}
	for (i = 0; i < ENTRIES; i++) {
		key.words[0] = i;
		CHECK(table_find(&table, &key) != NULL);
	}
	CHECK_EQUAL(table.count, ENTRIES);
	table_free(&table);
}

int main(void)
{
	test_rules();
	test_a_rule();
	test_an_own_source();
	test_a_member();
	test_streams();
	test_a_table_that_cannot_grow();
	return check_result();
}
