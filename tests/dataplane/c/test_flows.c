/* flows.c against the rules themselves: what is remembered is what would be decided now.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "flows.h"

#include <string.h>

#include "check.h"

enum { STEPS = 200000, SLOTS = 12, HOSTS = 6, PORTS = 3 };

/* Few of everything, so that packets and rules meet. */
static void host(uint8_t family, uint32_t number, uint8_t *address)
{
	memset(address, 0, 16);
	address[0] = family == 6 ? 0xfd : 10;
	address[family == 6 ? 15 : 3] = (uint8_t)number;
	/* IPv6: some differ in their first half alone. */
	if (family == 6 && number % 2) {
		address[15] = 0;
		address[5] = (uint8_t)number;
	}
}

static void put_at_random(struct rules *rules, uint64_t *random)
{
	struct rule_match match = { .protocol = check_random(random) % 6 ? PROTOCOL_UDP : PROTOCOL_ESP };
	struct network network = { .bits = 0 };
	struct rule *rule;

	match.first.family = check_random(random) % 2 ? 6 : 4;
	host(match.first.family, check_random(random) % HOSTS, match.first.address);
	match.bits = match.first.family == 6 ? 128 : 32;
	match.bits = (uint8_t)(match.bits - (check_random(random) % 4 ? 0 : 2));
	match.first.port = (uint16_t)(match.protocol == PROTOCOL_ESP ? 0 : check_random(random) % PORTS);
	match.last_port = match.first.port;
	match.vlan = (uint16_t)(check_random(random) % 3 ? 0 : 7);
	if (check_random(random) % 3 == 0) {
		match.source_count = 1;
		host(match.first.family, check_random(random) % HOSTS, network.address);
		network.bits = match.first.family == 6 ? 128 : 32;
	}
	rule = rule_new(&match, &network, 0);
	if (!rule)
		abort();
	rule->slot = check_random(random) % SLOTS;
	rules_put(rules, rule, NULL);
}

static void own_at_random(struct rules *rules, uint64_t *random)
{
	struct endpoint source = { .family = check_random(random) % 2 ? 6 : 4 };

	host(source.family, check_random(random) % HOSTS, source.address);
	source.port = (uint16_t)(check_random(random) % PORTS);
	rules_own(rules, &source, check_random(random) % 2 == 0);
}

static void test_against_the_rules(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	struct flows *flows = aligned_alloc(_Alignof(struct flows), sizeof(*flows));
	uint32_t step, relayed = 0, reasons[MCRD_DROP_REASONS] = { 0 };
	uint64_t random = 17;

	check_about("flows");
	if (!flows)
		abort();
	CHECK_EQUAL(flows_init(flows), 0);
	CHECK_EQUAL(rules_init(rules), 0);
	for (step = 0; step < STEPS; step++) {
		uint8_t source[16], destination[16];
		struct packet packet = { .source = source, .destination = destination };
		uint16_t vlan = check_random(&random) % 3 ? 0 : 7;
		int foreign = check_random(&random) % 5 == 0;
		enum drop drop, expected_drop = DROP_UNMATCHED;
		struct rule *expected = NULL;

		switch (check_random(&random) % 400) {
		case 0:
			put_at_random(rules, &random);
			break;
		case 1:
			rules_remove(rules, check_random(&random) % SLOTS);
			break;
		case 2:
			own_at_random(rules, &random);
			break;
		}
		packet.family = check_random(&random) % 2 ? 6 : 4;
		packet.protocol = check_random(&random) % 6 ? PROTOCOL_UDP : PROTOCOL_ESP;
		host(packet.family, check_random(&random) % HOSTS, source);
		host(packet.family, check_random(&random) % HOSTS, destination);
		if (packet.protocol == PROTOCOL_UDP) {
			packet.source_port = (uint16_t)(check_random(&random) % PORTS);
			packet.destination_port = (uint16_t)(check_random(&random) % PORTS);
		}
		if (!foreign)
			expected = rules_match(rules, &packet, vlan, &expected_drop);
		if ((expected || expected_drop == DROP_UNMATCHED) && rules_is_own(rules, &packet)) {
			expected = NULL;
			expected_drop = DROP_OWN_OUTPUT;
		}
		CHECK(flows_decide(flows, rules, &packet, vlan, foreign, &drop) == expected);
		if (!expected)
			CHECK_EQUAL(drop, expected_drop);
		if (expected)
			relayed++;
		else
			reasons[expected_drop]++;
	}
	CHECK(relayed > 1000);
	CHECK(reasons[DROP_UNMATCHED] > 1000);
	CHECK(reasons[DROP_WRONG_VLAN] > 1000);
	CHECK(reasons[DROP_WRONG_SOURCE] > 1000);
	CHECK(reasons[DROP_OWN_OUTPUT] > 1000);
	rules_free(rules);
	free(rules);
	free(flows);
}

/* Addresses in a row, of which an unkeyed hash of their halves sees one, have places of their own: with each seed. */
static void test_nobody_chooses_the_places(void)
{
	enum { CHOSEN = 512, SEEDS = 64 };
	struct rules *rules = check_allocate(sizeof(*rules));
	struct flows *flows = aligned_alloc(_Alignof(struct flows), sizeof(*flows));
	uint8_t source[16] = { 0xfd }, destination[16] = { 0xff, 0x15 };
	struct packet packet = {
		.source = source, .destination = destination, .family = 6, .protocol = PROTOCOL_UDP,
	};
	uint32_t seed, i, taken;
	enum drop drop;

	check_about("places");
	if (!flows)
		abort();
	CHECK_EQUAL(rules_init(rules), 0);
	for (seed = 0; seed < SEEDS; seed++) {
		CHECK_EQUAL(flows_init(flows), 0);
		for (i = 0; i < CHOSEN; i++) {
			source[6] = source[14] = (uint8_t)(i >> 8);
			source[7] = source[15] = (uint8_t)i;
			CHECK(flows_decide(flows, rules, &packet, 0, 0, &drop) == NULL);
		}
		for (i = taken = 0; i < FLOWS; i++)
			taken += flows->places[i].key.words[4] != 0;
		CHECK(taken > CHOSEN / 2); /* of random places, 403; the worst of 20,000 seeds had 352 */
	}
	rules_free(rules);
	free(rules);
	free(flows);
}

static void put(struct rules *rules, uint32_t slot, uint8_t host)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, host }, .family = 4 }, .bits = 32, .protocol = PROTOCOL_UDP,
	};
	struct rule *rule = rule_new(&match, NULL, 0);

	if (!rule)
		abort();
	rule->slot = slot;
	rules_put(rules, rule, NULL);
}

/* No packet comes between them, so what is remembered is of the time before all of them. */
static void test_several_changes_at_once(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	struct flows *flows = aligned_alloc(_Alignof(struct flows), sizeof(*flows));
	struct endpoint own = { .address = { 10, 0, 0, 1 }, .family = 4 };
	uint8_t source[16] = { 10, 0, 0, 1 }, destination[16] = { 239, 1, 1, 1 };
	struct packet packet = {
		.source = source, .destination = destination, .family = 4, .protocol = PROTOCOL_UDP,
	};
	enum drop drop;

	check_about("several changes");
	if (!flows)
		abort();
	CHECK_EQUAL(flows_init(flows), 0);
	CHECK_EQUAL(rules_init(rules), 0);
	put(rules, 0, 1);
	CHECK(flows_decide(flows, rules, &packet, 0, 0, &drop) == rules->by_slot[0]);
	put(rules, 0, 1); /* another form: the old one goes */
	CHECK(flows_decide(flows, rules, &packet, 0, 0, &drop) == rules->by_slot[0]);
	put(rules, 1, 2);
	CHECK_EQUAL(rules_own(rules, &own, 1), 0);
	CHECK(flows_decide(flows, rules, &packet, 0, 0, &drop) == NULL);
	CHECK_EQUAL(drop, DROP_OWN_OUTPUT);
	CHECK_EQUAL(rules_remove(rules, 1), 0);
	CHECK_EQUAL(rules_own(rules, &own, 0), 0);
	CHECK(flows_decide(flows, rules, &packet, 0, 0, &drop) == rules->by_slot[0]);
	rules_free(rules);
	free(rules);
	free(flows);
}

/* Else each packet would cost what the first one of its flow does. */
static void test_what_is_known_is_not_decided_again(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	struct flows *flows = aligned_alloc(_Alignof(struct flows), sizeof(*flows));
	uint8_t source[16] = { 10, 0, 0, 1 }, destination[16] = { 239, 1, 1, 1 };
	struct packet packet = {
		.source = source, .destination = destination, .family = 4, .protocol = PROTOCOL_UDP,
	};
	enum drop drop;

	check_about("known");
	if (!flows)
		abort();
	CHECK_EQUAL(flows_init(flows), 0);
	CHECK_EQUAL(rules_init(rules), 0);
	put(rules, 0, 1);
	CHECK(flows_decide(flows, rules, &packet, 0, 0, &drop) == rules->by_slot[0]);
	rules->by_slot[0]->match.vlan = 9; /* behind its back */
	CHECK(flows_decide(flows, rules, &packet, 0, 0, &drop) == rules->by_slot[0]);
	rules->version++;
	CHECK(flows_decide(flows, rules, &packet, 0, 0, &drop) == NULL);
	rules_free(rules);
	free(rules);
	free(flows);
}

int main(void)
{
	test_what_is_known_is_not_decided_again();
	test_several_changes_at_once();
	test_nobody_chooses_the_places();
	test_against_the_rules();
	return check_result();
}
