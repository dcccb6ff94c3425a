/* rules.c against a naive model: which slot takes a destination, and which sources are our own.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "rules.h"

#include <errno.h>
#include <string.h>

#include "check.h"

enum { DESTINATIONS = 400, SLOTS = 3000, STEPS = 60000, NO_SLOT = 0xffffffff };

struct model {
	uint32_t destination, put; /* put 0: no rule */
};

static struct model model[MCRD_RULE_SLOTS];
static uint8_t own[DESTINATIONS];

/* Family 4 and 6 in turn; the same address on several ports. */
static struct endpoint endpoint_number(uint32_t number)
{
	struct endpoint endpoint = { .port = (uint16_t)(5000 + number % 5), .family = number % 2 ? 6 : 4 };

	endpoint.address[0] = number % 2 ? 0xff : 239;
	endpoint.address[number % 2 ? 15 : 3] = (uint8_t)(number / 10);
	return endpoint;
}

/* The endpoint as both source and destination of a packet, in memory that holds no byte more. */
static uint32_t matched(const struct rules *rules, uint32_t number, int *is_own)
{
	struct endpoint endpoint = endpoint_number(number);
	size_t size = endpoint.family == 6 ? 16 : 4;
	uint8_t *address = check_allocate(size);
	struct packet packet = {
		.source = address,
		.destination = address,
		.source_port = endpoint.port,
		.destination_port = endpoint.port,
		.family = endpoint.family,
	};
	const struct rule *rule;

	memcpy(address, endpoint.address, size);
	rule = rules_match(rules, &packet);
	*is_own = rules_is_own(rules, &packet);
	free(address);
	return rule ? rule->slot : NO_SLOT;
}

static void check_number(const struct rules *rules, uint32_t number)
{
	uint32_t slot, expected = NO_SLOT;
	int is_own;

	/* Of two rules with one destination the later one has it. */
	for (slot = 0; slot < MCRD_RULE_SLOTS; slot++)
		if (model[slot].put && model[slot].destination == number &&
		    (expected == NO_SLOT || model[slot].put > model[expected].put))
			expected = slot;
	CHECK_EQUAL(matched(rules, number, &is_own), expected);
	CHECK_EQUAL(is_own, own[number]);
}

static void put(struct rules *rules, uint32_t slot, uint32_t number, uint32_t now)
{
	struct rule *rule = check_allocate(sizeof(*rule) + 2 * sizeof(struct output));

	memset(rule, 0, sizeof(*rule));
	rule->entry.key = endpoint_number(number);
	rule->slot = slot;
	rule->output_count = 2;
	rules_put(rules, rule);
	model[slot] = (struct model){ .destination = number, .put = now };
}

static void test_against_a_model(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	uint64_t random = 3;
	uint32_t step, number;

	check_about("model");
	CHECK_EQUAL(rules_init(rules), 0);
	for (step = 1; step <= STEPS; step++) {
		/* The last slot is one like the others. */
		uint32_t slot = check_random(&random) % SLOTS;
		uint32_t before;

		number = check_random(&random) % DESTINATIONS;
		slot = slot == 0 ? MCRD_RULE_SLOTS - 1 : slot;
		before = model[slot].put ? model[slot].destination : number;
		switch (check_random(&random) % 4) {
		case 0:
			CHECK_EQUAL(rules_remove(rules, slot), model[slot].put ? 0 : -ENOENT);
			model[slot].put = 0;
			break;
		case 1: {
			struct endpoint endpoint = endpoint_number(number);
			int add = (int)(check_random(&random) % 2);

			CHECK_EQUAL(rules_own(rules, &endpoint, add), add || own[number] ? 0 : -ENOENT);
			own[number] = (uint8_t)add;
			break;
		}
		default: /* often a replacement: other destination, same slot */
			put(rules, slot, number, step);
			break;
		}
		if (step % 16 == 0) {
			check_number(rules, number);
			check_number(rules, before);
		}
	}
	for (number = 0; number < DESTINATIONS; number++)
		check_number(rules, number);
	rules_free(rules);
	free(rules);
}

static void test_edges(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	struct endpoint endpoint = endpoint_number(2);
	int is_own;

	check_about("edges");
	memset(model, 0, sizeof(model));
	memset(own, 0, sizeof(own));
	CHECK_EQUAL(rules_init(rules), 0);
	CHECK_EQUAL(matched(rules, 1, &is_own), NO_SLOT);
	CHECK_EQUAL(rules_remove(rules, 0), -ENOENT);
	CHECK_EQUAL(rules_remove(rules, MCRD_RULE_SLOTS), -ENOENT);
	CHECK_EQUAL(rules_remove(rules, 0xffffffff), -ENOENT);

	/* A rule in place of itself. */
	put(rules, 5, 1, 1);
	put(rules, 5, 1, 2);
	CHECK_EQUAL(matched(rules, 1, &is_own), 5);
	CHECK_EQUAL(rules->by_destination.count, 1);

	/* The slot's old destination is free. */
	put(rules, 5, 3, 3);
	CHECK_EQUAL(matched(rules, 1, &is_own), NO_SLOT);
	CHECK_EQUAL(matched(rules, 3, &is_own), 5);

	/* The later rule goes, the earlier one is back. */
	put(rules, 6, 3, 4);
	CHECK_EQUAL(matched(rules, 3, &is_own), 6);
	CHECK_EQUAL(rules_remove(rules, 6), 0);
	CHECK_EQUAL(matched(rules, 3, &is_own), 5);

	/* Our own is a set. */
	CHECK_EQUAL(rules_own(rules, &endpoint, 1), 0);
	CHECK_EQUAL(rules_own(rules, &endpoint, 1), 0);
	CHECK_EQUAL(rules->own.count, 1);
	CHECK_EQUAL(rules_own(rules, &endpoint, 0), 0);
	CHECK_EQUAL(rules_own(rules, &endpoint, 0), -ENOENT);
	matched(rules, 2, &is_own);
	CHECK(!is_own);
	rules_free(rules);
	free(rules);
}

int main(void)
{
	test_against_a_model();
	test_edges();
	return check_result();
}
