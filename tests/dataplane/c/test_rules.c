/* rules.c against naive models: which rule takes a packet or why none does, and which sources are our own.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "rules.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "samples.h"

enum { SLOTS = 200, NETWORKS = 3, STEPS = 20000, PACKETS = 6, NO_SLOT = 0xffffffff };

struct model {
	uint32_t put; /* when; 0: no rule */
	struct rule_match match;
	struct network networks[2 * NETWORKS];
};

static struct model model[MCRD_RULE_SLOTS];

static int bit_of(const uint8_t *bytes, uint32_t number)
{
	return bytes[number / 8] >> (7 - number % 8) & 1;
}

static int naive_within(const uint8_t *address, const uint8_t *network, uint32_t bits)
{
	uint32_t i;

	for (i = 0; i < bits; i++)
		if (bit_of(address, i) != bit_of(network, i))
			return 0;
	return 1;
}

static void put(struct rules *rules, uint32_t slot, const struct rule_match *match, const struct network *networks)
{
	put_rule(rules, slot, match, networks, 2);
}

static uint32_t matched(const struct rules *rules, const struct sample *sample, enum drop *why)
{
	struct held held = hold(sample);
	const struct rule *rule = rules_match(rules, &held.packet, sample->vlan, why);
	uint32_t slot = rule ? rule->slot : NO_SLOT;

	let_go(&held);
	return slot;
}

static int is_own(const struct rules *rules, const struct sample *sample)
{
	struct held held = hold(sample);
	int found = rules_is_own(rules, &held.packet);

	let_go(&held);
	return found;
}

/* The model. */

static int naive_allowed(const struct model *rule, const struct sample *sample)
{
	uint32_t i, sources = rule->match.source_count;
	int allowed = sources == 0;

	for (i = 0; i < sources; i++)
		allowed |= naive_within(sample->source, rule->networks[i].address, rule->networks[i].bits);
	for (i = 0; i < rule->match.exclude_count; i++)
		allowed &= !naive_within(sample->source, rule->networks[sources + i].address,
					 rule->networks[sources + i].bits);
	return allowed;
}

static int naive_is_range(const struct rule_match *match)
{
	return match->bits != 8 * length_of(match->first.family) || match->first.port != match->last_port;
}

/* Plain rules come before ranges, later ones before earlier ones. */
static int comes_before(uint32_t slot, uint32_t other)
{
	int range = naive_is_range(&model[slot].match), other_range = naive_is_range(&model[other].match);

	return range != other_range ? other_range : model[slot].put > model[other].put;
}

static uint32_t naive_match(const struct sample *sample, enum drop *why)
{
	uint32_t slot, found = NO_SLOT;

	*why = DROP_UNMATCHED;
	for (slot = 0; slot < MCRD_RULE_SLOTS; slot++) {
		const struct model *rule = &model[slot];
		const struct rule_match *match = &rule->match;

		if (!rule->put || match->first.family != sample->family || match->protocol != sample->protocol ||
		    sample->port < match->first.port || sample->port > match->last_port ||
		    !naive_within(sample->destination, match->first.address, match->bits))
			continue;
		if (match->vlan != sample->vlan)
			*why = *why == DROP_UNMATCHED ? DROP_WRONG_VLAN : *why;
		else if (!naive_allowed(rule, sample))
			*why = DROP_WRONG_SOURCE;
		else if (found == NO_SLOT || comes_before(slot, found))
			found = slot;
	}
	return found;
}

/* A small world, so that rules meet packets, and each other. */

static void address_at_random(uint64_t *random, uint8_t family, int group, uint8_t *address)
{
	uint32_t size = length_of(family), low = check_random(random) % 8;

	memset(address, 0, 16);
	address[0] = group ? (family == 6 ? 0xff : 239) : (family == 6 ? 0xfd : 10);
	address[1] = (uint8_t)(check_random(random) % 2 ? 0x80 : 0);
	address[size - 1] = (uint8_t)low;
}

static struct network network_at_random(uint64_t *random, uint8_t family)
{
	static const uint8_t bits4[] = { 0, 1, 8, 9, 16, 29, 30, 31, 32, 32, 32 };
	static const uint8_t bits6[] = { 0, 1, 8, 9, 64, 125, 126, 127, 128, 128, 128 };
	struct network network;

	address_at_random(random, family, 0, network.address);
	network.bits = family == 6 ? bits6[check_random(random) % sizeof(bits6)]
				   : bits4[check_random(random) % sizeof(bits4)];
	return network;
}

static struct model rule_at_random(uint64_t *random)
{
	uint8_t family = check_random(random) % 2 ? 6 : 4, full = (uint8_t)(8 * length_of(family));
	struct model rule = { .match = { .protocol = PROTOCOL_UDP, .bits = full } };
	struct rule_match *match = &rule.match;
	uint32_t i;

	match->first.family = family;
	address_at_random(random, family, 1, match->first.address);
	match->first.port = (uint16_t)(5000 + check_random(random) % 4);
	match->last_port = match->first.port;
	if (check_random(random) % 8 == 0) {
		match->protocol = PROTOCOL_ESP;
		match->first.port = match->last_port = 0;
	} else if (check_random(random) % 8 == 0) {
		match->last_port = (uint16_t)(match->first.port + check_random(random) % 3);
	}
	if (check_random(random) % 8 == 0)
		match->bits = (uint8_t)(full - check_random(random) % 4);
	match->vlan = (uint16_t)(check_random(random) % 4 ? 0 : 5 + check_random(random) % 2);
	if (check_random(random) % 2) {
		match->source_count = check_random(random) % (NETWORKS + 1);
		match->exclude_count = check_random(random) % (NETWORKS + 1);
	}
	for (i = 0; i < match->source_count + match->exclude_count; i++)
		rule.networks[i] = network_at_random(random, family);
	return rule;
}

static struct sample sample_at_random(uint64_t *random)
{
	struct sample sample = {
		.family = check_random(random) % 2 ? 6 : 4,
		.protocol = check_random(random) % 8 ? PROTOCOL_UDP : PROTOCOL_ESP,
		.vlan = (uint16_t)(check_random(random) % 4 ? 0 : 5 + check_random(random) % 2),
	};

	address_at_random(random, sample.family, 0, sample.source);
	address_at_random(random, sample.family, 1, sample.destination);
	if (sample.protocol == PROTOCOL_UDP) {
		sample.source_port = (uint16_t)(40000 + check_random(random) % 3);
		sample.port = (uint16_t)(5000 + check_random(random) % 5);
	}
	return sample;
}

static void test_against_a_model(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	uint32_t step, i, reasons[MCRD_DROP_REASONS] = { 0 }, taken = 0;
	uint64_t random = 3;

	check_about("model");
	CHECK_EQUAL(rules_init(rules), 0);
	for (step = 1; step <= STEPS; step++) {
		uint32_t slot = check_random(&random) % SLOTS;

		slot = slot == 0 ? MCRD_RULE_SLOTS - 1 : slot; /* one like the others */
		if (check_random(&random) % 3 == 0) {
			CHECK_EQUAL(rules_remove(rules, slot), model[slot].put ? 0 : -ENOENT);
			model[slot].put = 0;
		} else { /* often a replacement: all is different, but the slot */
			model[slot] = rule_at_random(&random);
			model[slot].put = step;
			put(rules, slot, &model[slot].match, model[slot].networks);
		}
		for (i = 0; step % 16 == 0 && i < PACKETS; i++) {
			struct sample sample = sample_at_random(&random);
			enum drop why = DROP_MALFORMED, expected_why;
			uint32_t expected = naive_match(&sample, &expected_why);

			CHECK_EQUAL(matched(rules, &sample, &why), expected);
			if (expected == NO_SLOT) {
				CHECK_EQUAL(why, expected_why);
				reasons[why]++;
			} else {
				taken++;
			}
		}
	}
	CHECK(taken > 500);
	CHECK(reasons[DROP_UNMATCHED] > 100);
	CHECK(reasons[DROP_WRONG_VLAN] > 100);
	CHECK(reasons[DROP_WRONG_SOURCE] > 100);
	rules_free(rules);
	free(rules);
	memset(model, 0, sizeof(model));
}

/* Every length of prefix, of addresses that differ in any one bit, or in all from one on. */
static void test_prefixes(uint8_t family)
{
	uint32_t size = 8 * length_of(family), bits, bit;
	enum { DESTINATION, SOURCE, EXCLUDED, KINDS } kind;
	static const char *const names[KINDS] = { "destination prefix", "source prefix", "excluded prefix" };

	for (kind = DESTINATION; kind < KINDS; kind++)
		for (bits = 0; bits <= size; bits++) {
			struct rules *rules = check_allocate(sizeof(*rules));
			struct sample sample = sample_of(family);
			uint8_t *varied = kind == DESTINATION ? sample.destination : sample.source;
			uint8_t base[16];
			struct network network = { .bits = (uint8_t)bits };
			struct rule_match match =
				match_of(family, sample.destination, (uint8_t)(kind == DESTINATION ? bits : size),
					 5000, 5000);
			enum drop why;

			check_about(names[kind]);
			memcpy(base, varied, 16);
			memcpy(network.address, sample.source, 16);
			match.source_count = kind == SOURCE;
			match.exclude_count = kind == EXCLUDED;
			CHECK_EQUAL(rules_init(rules), 0);
			put(rules, 7, &match, &network);
			for (bit = 0; bit <= 2 * size; bit++) {
				int within;
				uint32_t i;

				memcpy(varied, base, 16);
				if (bit < size)
					varied[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
				else /* all from this one on; of the last round none */
					for (i = bit - size; i < size; i++)
						varied[i / 8] ^= (uint8_t)(0x80 >> i % 8);
				within = naive_within(varied, base, bits);
				CHECK_EQUAL(within, (bit < size ? bit : bit - size) >= bits);
				CHECK_EQUAL(matched(rules, &sample, &why),
					    within == (kind != EXCLUDED) ? 7 : NO_SLOT);
				if (within != (kind != EXCLUDED))
					CHECK_EQUAL(why, kind == DESTINATION ? DROP_UNMATCHED : DROP_WRONG_SOURCE);
			}
			rules_free(rules);
			free(rules);
		}
}

static void test_port_ranges(void)
{
	static const uint16_t ranges[][2] = { { 5000, 5000 }, { 5000, 5001 }, { 5000, 5099 }, { 0, 65535 },
					      { 0, 0 },       { 0, 1 },       { 65534, 65535 }, { 65535, 65535 } };
	uint32_t i, port;

	for (i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		struct rules *rules = check_allocate(sizeof(*rules));
		struct rule_match match = match_of(4, group4, 32, ranges[i][0], ranges[i][1]);
		struct sample sample = sample_of(4);
		enum drop why;

		check_about("port range");
		CHECK_EQUAL(rules_init(rules), 0);
		put(rules, 3, &match, NULL);
		for (port = 0; port <= 65535; port++) {
			sample.port = (uint16_t)port;
			CHECK_EQUAL(matched(rules, &sample, &why),
				    port >= ranges[i][0] && port <= ranges[i][1] ? 3 : NO_SLOT);
		}
		rules_free(rules);
		free(rules);
	}
}

/* One destination, and who sends or in which VLAN decides. */
static void test_one_destination(int range)
{
	static const struct network networks[] = { { { 10, 1, 2, 3 }, 32 }, { { 10, 2 }, 16 }, { { 10, 2, 9 }, 24 } };
	struct rules *rules = check_allocate(sizeof(*rules));
	struct rule_match match = match_of(4, group4, range ? 30 : 32, 5000, range ? 5003 : 5000);
	struct sample sample = sample_of(4);
	enum drop why;
	static const struct {
		uint8_t source[4];
		uint16_t vlan;
		uint32_t slot;
		enum drop why;
	} cases[] = {
		{ { 10, 1, 2, 3 }, 0, 1, 0 },
		{ { 10, 2, 0, 1 }, 0, 2, 0 },
		{ { 10, 2, 9, 1 }, 0, NO_SLOT, DROP_WRONG_SOURCE },
		{ { 10, 1, 2, 4 }, 0, NO_SLOT, DROP_WRONG_SOURCE },
		{ { 10, 1, 2, 4 }, 5, 3, 0 },
		{ { 10, 1, 2, 3 }, 5, 3, 0 },
		{ { 10, 1, 2, 3 }, 6, 4, 0 },
		{ { 10, 2, 0, 1 }, 6, NO_SLOT, DROP_WRONG_SOURCE },
		{ { 10, 1, 2, 3 }, 7, NO_SLOT, DROP_WRONG_VLAN },
		{ { 10, 9, 9, 9 }, 4095, NO_SLOT, DROP_WRONG_VLAN },
	};
	uint32_t order, i;

	check_about(range ? "rules of one range" : "rules of one destination");
	for (order = 0; order < 24; order++) {
		uint32_t slots[] = { 1, 2, 3, 4 }, left = order;

		CHECK_EQUAL(rules_init(rules), 0);
		for (i = 4; i > 0; i--) { /* in every order */
			uint32_t which = left % i, slot = slots[which];

			left /= i;
			slots[which] = slots[i - 1];
			match.vlan = slot == 3 ? 5 : slot == 4 ? 6 : 0;
			match.source_count = slot != 3;
			match.exclude_count = slot == 2;
			put(rules, slot, &match, &networks[slot == 2]);
		}
		for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
			memcpy(sample.source, cases[i].source, 4);
			sample.vlan = cases[i].vlan;
			CHECK_EQUAL(matched(rules, &sample, &why), cases[i].slot);
			if (cases[i].slot == NO_SLOT)
				CHECK_EQUAL(why, cases[i].why);
		}
		rules_free(rules);
	}
	free(rules);
}

static void test_more_destinations(uint16_t last_port)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	const uint8_t addresses[][16] = { { 255, 255, 255, 255 }, { 10, 1, 0, 255 }, { 10, 2, 255, 255 } };
	struct rule_match match = match_of(4, addresses[0], 32, 5000, last_port);
	/* A source, one that is excluded, and two more destinations. */
	struct network networks[] = {
		{ .address = { 10 }, .bits = 8 },
		{ .address = { 10, 3 }, .bits = 16 },
		{ .address = { 10, 1, 0, 255 }, .bits = 32 },
		{ .address = { 10, 2, 255, 255 }, .bits = 32 },
	};
	struct sample sample = sample_of(4);
	enum drop why;
	uint32_t i;

	check_about(last_port == 5000 ? "more destinations" : "more destinations of a range");
	CHECK_EQUAL(rules_init(rules), 0);
	match.source_count = match.exclude_count = 1;
	match.also_count = 2;
	put(rules, 1, &match, networks);
	for (i = 0; i < 3; i++) {
		memcpy(sample.destination, addresses[i], 4);
		memcpy(sample.source, (uint8_t[]){ 10, 1, 2, 3 }, 4);
		CHECK_EQUAL(matched(rules, &sample, &why), 1);
		sample.source[1] = 3;
		CHECK_EQUAL(matched(rules, &sample, &why), NO_SLOT);
		CHECK_EQUAL(why, DROP_WRONG_SOURCE);
	}
	sample.source[1] = 1;
	memcpy(sample.destination, (uint8_t[]){ 10, 1, 0, 254 }, 4);
	CHECK_EQUAL(matched(rules, &sample, &why), NO_SLOT);
	CHECK_EQUAL(why, DROP_UNMATCHED);

	/* With one less: that one is nobody's any more. */
	match.also_count = 1;
	put(rules, 1, &match, networks);
	memcpy(sample.destination, addresses[1], 4);
	CHECK_EQUAL(matched(rules, &sample, &why), 1);
	memcpy(sample.destination, addresses[2], 4);
	CHECK_EQUAL(matched(rules, &sample, &why), NO_SLOT);
	CHECK_EQUAL(rules_remove(rules, 1), 0);
	CHECK_EQUAL(rules->by_destination.count, 0);
	memcpy(sample.destination, addresses[1], 4);
	CHECK_EQUAL(matched(rules, &sample, &why), NO_SLOT);
	rules_free(rules);
	free(rules);
}

static void test_esp(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	struct rule_match esp = match_of(4, group4, 32, 0, 0), udp = match_of(4, group4, 32, 5000, 5000);
	struct sample sample = sample_of(4);
	enum drop why;

	check_about("ESP");
	CHECK_EQUAL(rules_init(rules), 0);
	esp.protocol = PROTOCOL_ESP;
	put(rules, 1, &esp, NULL);
	CHECK_EQUAL(matched(rules, &sample, &why), NO_SLOT);
	CHECK_EQUAL(why, DROP_UNMATCHED);
	put(rules, 2, &udp, NULL);
	CHECK_EQUAL(matched(rules, &sample, &why), 2);
	sample.port = 0; /* of UDP */
	CHECK_EQUAL(matched(rules, &sample, &why), NO_SLOT);
	sample.protocol = PROTOCOL_ESP;
	CHECK_EQUAL(matched(rules, &sample, &why), 1);
	/* A range of all ports is still one of UDP. */
	udp.first.port = 0;
	udp.last_port = 65535;
	put(rules, 1, &udp, NULL);
	CHECK_EQUAL(matched(rules, &sample, &why), NO_SLOT);
	rules_free(rules);
	free(rules);
}

static void test_own(void)
{
	enum { NUMBERS = 400 };
	struct rules *rules = check_allocate(sizeof(*rules));
	static uint8_t own[NUMBERS];
	uint64_t random = 5;
	uint32_t step, number, count = 0;

	check_about("own");
	CHECK_EQUAL(rules_init(rules), 0);
	for (step = 0; step < 20000; step++) {
		struct sample sample = { .protocol = PROTOCOL_UDP };
		struct endpoint endpoint;
		int add = (int)(check_random(&random) % 2);

		/* Neighbours differ in family or port alone; ESP has the port 0. */
		number = check_random(&random) % NUMBERS;
		sample.family = number % 2 ? 6 : 4;
		sample.source_port = (uint16_t)(number / 2 % 5);
		sample.source[0] = 10;
		sample.source[3] = (uint8_t)(number / 10);
		endpoint = (struct endpoint){ .port = sample.source_port, .family = sample.family };
		memcpy(endpoint.address, sample.source, 16);
		CHECK_EQUAL(is_own(rules, &sample), own[number]);
		CHECK_EQUAL(rules_own(rules, &endpoint, add), add || own[number] ? 0 : -ENOENT);
		count += (uint32_t)add - own[number];
		own[number] = (uint8_t)add;
		CHECK_EQUAL(is_own(rules, &sample), add);
		CHECK_EQUAL(rules->own.count, count); /* a set */
	}
	rules_free(rules);
	free(rules);
}

static void test_edges(void)
{
	struct rules *rules = check_allocate(sizeof(*rules));
	struct rule_match match = match_of(4, group4, 32, 5000, 5000);
	struct sample sample = sample_of(4);
	enum drop why;

	check_about("edges");
	CHECK_EQUAL(rules_init(rules), 0);
	CHECK_EQUAL(matched(rules, &sample, &why), NO_SLOT);
	CHECK_EQUAL(why, DROP_UNMATCHED);
	CHECK_EQUAL(rules_remove(rules, 0), -ENOENT);
	CHECK_EQUAL(rules_remove(rules, MCRD_RULE_SLOTS), -ENOENT);
	CHECK_EQUAL(rules_remove(rules, 0xffffffff), -ENOENT);

	/* A rule in place of itself; as a range; and back. */
	put(rules, 5, &match, NULL);
	put(rules, 5, &match, NULL);
	CHECK_EQUAL(matched(rules, &sample, &why), 5);
	CHECK_EQUAL(rules->by_destination.count, 1);
	match.last_port = 5001;
	put(rules, 5, &match, NULL);
	CHECK_EQUAL(matched(rules, &sample, &why), 5);
	CHECK_EQUAL(rules->by_destination.count, 0);
	CHECK(rules->ranges && !rules->ranges->next_range);
	match.last_port = 5000;
	put(rules, 5, &match, NULL);
	CHECK(!rules->ranges);

	/* The later rule goes, the earlier one is back. */
	put(rules, 6, &match, NULL);
	CHECK_EQUAL(matched(rules, &sample, &why), 6);
	CHECK_EQUAL(rules_remove(rules, 6), 0);
	CHECK_EQUAL(matched(rules, &sample, &why), 5);

	/* The slot's old destination is free. */
	match.first.port = match.last_port = 5001;
	put(rules, 5, &match, NULL);
	CHECK_EQUAL(matched(rules, &sample, &why), NO_SLOT);
	rules_free(rules);
	free(rules);
}

int main(void)
{
	test_against_a_model();
	test_prefixes(4);
	test_prefixes(6);
	test_port_ranges();
	test_one_destination(0);
	test_one_destination(1);
	test_more_destinations(5000);
	test_more_destinations(5009);
	test_esp();
	test_own();
	test_edges();
	return check_result();
}
