/* Packets and rules, for the tests of rules.c and members.c.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef SAMPLES_H
#define SAMPLES_H

#include <string.h>

#include "check.h"
#include "rules.h"

static inline uint32_t length_of(uint8_t family)
{
	return family == 6 ? 16 : 4;
}

static inline struct rule_match match_of(uint8_t family, const uint8_t *address, uint8_t bits, uint16_t first, uint16_t last)
{
	struct rule_match match = {
		.first = { .port = first, .family = family },
		.bits = bits,
		.last_port = last,
		.protocol = PROTOCOL_UDP,
	};

	memcpy(match.first.address, address, length_of(family));
	return match;
}

static inline void put_rule(struct rules *rules, uint32_t slot, const struct rule_match *match,
		     const struct network *networks, uint32_t outputs)
{
	struct rule *rule = rule_new(match, networks, outputs);

	if (!rule)
		abort();
	rule->slot = slot;
	rules_put(rules, rule, NULL);
}

/* What a packet is of; its addresses are handed over in memory that holds no byte more. */
struct sample {
	uint8_t family, protocol;
	uint8_t source[16], destination[16];
	uint16_t source_port, port, vlan;
};

struct held {
	struct packet packet;
	uint8_t *source, *destination;
};

static inline struct held hold(const struct sample *sample)
{
	uint32_t size = length_of(sample->family);
	struct held held = { .source = check_allocate(size), .destination = check_allocate(size) };

	memcpy(held.source, sample->source, size);
	memcpy(held.destination, sample->destination, size);
	held.packet = (struct packet){
		.source = held.source,
		.destination = held.destination,
		.source_port = sample->source_port,
		.destination_port = sample->port,
		.family = sample->family,
		.protocol = sample->protocol,
	};
	return held;
}

static inline void let_go(struct held *held)
{
	free(held->source);
	free(held->destination);
}

static const uint8_t group4[16] = { 239, 1, 1, 1 }, group6[16] = { 0xff, 0x15, [14] = 0x12, 0x34 };
static const uint8_t host4[16] = { 10, 1, 2, 3 }, host6[16] = { 0xfd, 0x01, [15] = 0x55 };

static inline struct sample sample_of(uint8_t family)
{
	struct sample sample = { .family = family, .protocol = PROTOCOL_UDP, .source_port = 40000, .port = 5000 };

	memcpy(sample.destination, family == 6 ? group6 : group4, 16);
	memcpy(sample.source, family == 6 ? host6 : host4, 16);
	return sample;
}

#endif
