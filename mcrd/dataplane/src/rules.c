/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "rules.h"
#include "members.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t address_length(uint8_t family)
{
	return family == 6 ? 16 : 4;
}

static uint64_t small(uint8_t family, uint8_t protocol, uint16_t port)
{
	return (uint64_t)family << 56 | (uint64_t)protocol << 48 | (uint64_t)port << 32;
}

static struct key destination_key(const uint8_t *address, uint8_t family, uint8_t protocol, uint16_t port,
				  uint8_t interface)
{
	struct key key = { .words = { [4] = small(family, protocol, port) | interface } };

	memcpy(key.words, address, address_length(family));
	return key;
}

static struct key source_key(const uint8_t *address, uint8_t family, uint16_t port)
{
	struct key key = { .words = { [4] = small(family, 0, port) } };

	memcpy(key.words + 2, address, address_length(family));
	return key;
}

static int within(const uint8_t *address, const uint8_t *network, uint8_t bits)
{
	uint8_t whole = bits / 8, rest = bits % 8;

	if (memcmp(address, network, whole) != 0)
		return 0;
	return rest == 0 || ((address[whole] ^ network[whole]) & (0xff00 >> rest) & 0xff) == 0;
}

int rules_init(struct rules *rules)
{
	int result;

	memset(rules, 0, sizeof(*rules));
	queue_init(&rules->asking);
	queue_init(&rules->ready);
	if ((result = limit_init(&rules->wanting, WANTED_A_SECOND)) < 0 ||
	    (result = table_init(&rules->by_destination)) < 0 || (result = table_init(&rules->own)) < 0 ||
	    (result = table_init(&rules->members)) < 0 || (result = waiting_init(&rules->waiting, WAITING_BYTES)) < 0)
		rules_free(rules);
	return result;
}

void rules_free(struct rules *rules)
{
	uint32_t slot;

	for (slot = 0; slot < MCRD_RULE_SLOTS; slot++)
		rules_remove(rules, slot);
	limit_free(&rules->wanting);
	table_free(&rules->by_destination);
	table_free(&rules->own);
	table_free(&rules->members);
	waiting_free(&rules->waiting);
}

static const struct network *also(const struct rule *rule)
{
	return rule->networks + rule->match.source_count + rule->match.exclude_count;
}

struct rule *rule_new(const struct rule_match *match, const struct network *networks, uint32_t output_count)
{
	uint32_t count = match->source_count + match->exclude_count + match->also_count, i;
	struct rule *rule = calloc(1, sizeof(*rule) + output_count * sizeof(rule->outputs[0]));

	if (!rule)
		return NULL;
	rule->output_count = output_count;
	queue_init(&rule->unasked);
	rule->networks = calloc(count ? count : 1, sizeof(*networks));
	rule->places = calloc(1 + (size_t)match->also_count, sizeof(*rule->places));
	if (!rule->networks || !rule->places || limit_init(&rule->limit, match->packets_per_second) < 0) {
		rule_free(rule);
		return NULL;
	}
	if (count)
		memcpy(rule->networks, networks, count * sizeof(*networks));
	rule->match = *match;
	for (i = 0; i <= match->also_count; i++) {
		const uint8_t *address = i == 0 ? match->first.address : also(rule)[i - 1].address;

		rule->places[i].rule = rule;
		rule->places[i].entry.key =
			destination_key(address, match->first.family, match->protocol, match->first.port, match->interface);
	}
	return rule;
}

void rule_free(struct rule *rule)
{
	uint32_t i;

	for (i = 0; i < rule->output_count; i++) {
		limit_free(&rule->outputs[i].limit);
		free(rule->outputs[i].choice);
	}
	limit_free(&rule->limit);
	inspector_free(rule->inspector);
	free(rule->networks);
	free(rule->places);
	free(rule);
}

static int is_range(const struct rule *rule)
{
	return rule->match.bits < 8 * address_length(rule->match.first.family) ||
	       rule->match.last_port != rule->match.first.port;
}

/* The rule's destinations, unless it is a range. */
static void put_places(struct rules *rules, struct rule *rule)
{
	uint32_t i;

	for (i = 0; i <= rule->match.also_count; i++)
		table_add(&rules->by_destination, &rule->places[i].entry);
}

static void remove_places(struct rules *rules, struct rule *rule)
{
	uint32_t i;

	for (i = 0; i <= rule->match.also_count; i++)
		table_remove(&rules->by_destination, &rule->places[i].entry);
}

void rules_put(struct rules *rules, struct rule *rule, const uint32_t *kept)
{
	const struct rule *old = rules->by_slot[rule->slot];

	/* For a moment both have members of one key; those of the old one go with it. */
	if (old && kept)
		members_keep(rules, old, rule, kept);
	rules_remove(rules, rule->slot);
	rules->version++;
	rules->by_slot[rule->slot] = rule;
	if (is_range(rule)) {
		rule->next_range = rules->ranges;
		rules->ranges = rule;
	} else {
		put_places(rules, rule);
	}
}

int rules_remove(struct rules *rules, uint32_t slot)
{
	struct rule *rule = slot < MCRD_RULE_SLOTS ? rules->by_slot[slot] : NULL, **at;

	if (!rule)
		return -ENOENT;
	rules->version++;
	members_free(rules, rule);
	if (is_range(rule)) {
		for (at = &rules->ranges; *at != rule; at = &(*at)->next_range)
			;
		*at = rule->next_range;
	} else {
		remove_places(rules, rule);
	}
	rules->by_slot[slot] = NULL;
	rule_free(rule);
	return 0;
}

int rules_own(struct rules *rules, const struct endpoint *source, int add)
{
	struct key key = source_key(source->address, source->family, source->port);
	struct entry *entry = table_find(&rules->own, &key);

	rules->version++;
	if (!add) {
		if (!entry)
			return -ENOENT;
		table_remove(&rules->own, entry);
		free(entry);
	} else if (!entry) {
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			return -ENOMEM;
		entry->key = key;
		table_add(&rules->own, entry);
	}
	return 0;
}

int rules_is_own(const struct rules *rules, const struct packet *packet)
{
	struct key key = source_key(packet->source, packet->family, packet->source_port);

	return table_find(&rules->own, &key) != NULL;
}

static int takes_source(const struct rule *rule, const uint8_t *source)
{
	const struct network *networks = rule->networks;
	uint32_t i;

	for (i = 0; i < rule->match.exclude_count; i++) {
		const struct network *excluded = &networks[rule->match.source_count + i];

		if (within(source, excluded->address, excluded->bits))
			return 0;
	}
	if (rule->match.source_count == 0)
		return 1;
	for (i = 0; i < rule->match.source_count; i++)
		if (within(source, networks[i].address, networks[i].bits))
			return 1;
	return 0;
}

/* Does the rule, whose destination it is, take the packet? Else `why` becomes the later reason of the two. */
static int takes(const struct rule *rule, const struct packet *packet, uint16_t vlan, enum drop *why)
{
	if (rule->match.vlan != vlan) {
		if (*why == DROP_UNMATCHED)
			*why = DROP_WRONG_VLAN;
		return 0;
	}
	if (!takes_source(rule, packet->source)) {
		*why = DROP_WRONG_SOURCE;
		return 0;
	}
	return 1;
}

static int is_to(const struct rule *rule, const uint8_t *destination)
{
	const struct rule_match *match = &rule->match;
	uint32_t length = address_length(match->first.family), i;

	if (within(destination, match->first.address, match->bits))
		return 1;
	for (i = 0; i < match->also_count; i++)
		if (memcmp(destination, also(rule)[i].address, length) == 0)
			return 1;
	return 0;
}

struct rule *rules_match(const struct rules *rules, const struct packet *packet, uint16_t vlan, enum drop *why)
{
	struct key key = destination_key(packet->destination, packet->family, packet->protocol,
					 packet->destination_port, packet->interface);
	struct entry *entry;
	struct rule *rule;

	*why = DROP_UNMATCHED;
	for (entry = table_find(&rules->by_destination, &key); entry; entry = table_find_next(entry)) {
		rule = ((struct place *)entry)->rule;
		if (takes(rule, packet, vlan, why))
			return rule;
	}
	for (rule = rules->ranges; rule; rule = rule->next_range) {
		const struct rule_match *match = &rule->match;

		if (match->interface == packet->interface && match->first.family == packet->family &&
		    match->protocol == packet->protocol &&
		    packet->destination_port >= match->first.port && packet->destination_port <= match->last_port &&
		    is_to(rule, packet->destination) && takes(rule, packet, vlan, why))
			return rule;
	}
	return NULL;
}
