/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "rules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct endpoint endpoint_of(uint8_t family, const uint8_t *address, uint16_t port)
{
	struct endpoint endpoint = { .port = port, .family = family };

	memcpy(endpoint.address, address, family == 6 ? 16 : 4);
	return endpoint;
}

int rules_init(struct rules *rules)
{
	memset(rules, 0, sizeof(*rules));
	if (table_init(&rules->by_destination) < 0 || table_init(&rules->own) < 0) {
		rules_free(rules);
		return -ENOMEM;
	}
	return 0;
}

void rules_free(struct rules *rules)
{
	table_free(&rules->by_destination);
	table_free(&rules->own);
}

void rules_put(struct rules *rules, struct rule *rule)
{
	rules_remove(rules, rule->slot);
	table_add(&rules->by_destination, &rule->entry);
	rules->by_slot[rule->slot] = rule;
}

int rules_remove(struct rules *rules, uint32_t slot)
{
	struct rule *rule = slot < MCRD_RULE_SLOTS ? rules->by_slot[slot] : NULL;

	if (!rule)
		return -ENOENT;
	table_remove(&rules->by_destination, &rule->entry);
	rules->by_slot[slot] = NULL;
	free(rule);
	return 0;
}

int rules_own(struct rules *rules, const struct endpoint *source, int add)
{
	struct entry *entry = table_find(&rules->own, source);

	if (!add) {
		if (!entry)
			return -ENOENT;
		table_remove(&rules->own, entry);
		free(entry);
	} else if (!entry) {
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			return -ENOMEM;
		entry->key = *source;
		table_add(&rules->own, entry);
	}
	return 0;
}

const struct rule *rules_match(const struct rules *rules, const struct packet *packet)
{
	struct endpoint key = endpoint_of(packet->family, packet->destination, packet->destination_port);

	return (const struct rule *)table_find(&rules->by_destination, &key);
}

int rules_is_own(const struct rules *rules, const struct packet *packet)
{
	struct endpoint key = endpoint_of(packet->family, packet->source, packet->source_port);

	return table_find(&rules->own, &key) != NULL;
}
