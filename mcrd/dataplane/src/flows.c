/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "flows.h"

#include <string.h>

static struct key key_of(const struct packet *packet, uint16_t vlan, int foreign)
{
	struct key key = {
		.words = { [4] = (uint64_t)packet->family << 60 | (uint64_t)(foreign != 0) << 59 |
				 (uint64_t)packet->interface << 52 |
				 (uint64_t)vlan << 40 | (uint64_t)packet->protocol << 32 |
				 (uint32_t)packet->destination_port << 16 | packet->source_port },
	};

	if (packet->family == 6) {
		memcpy(key.words, packet->destination, 16);
		memcpy(key.words + 2, packet->source, 16);
	} else {
		memcpy(key.words, packet->destination, 4);
		memcpy(key.words + 2, packet->source, 4);
	}
	return key;
}

int flows_init(struct flows *flows)
{
	memset(flows, 0, sizeof(*flows));
	return hash_draw(&flows->seed, sizeof(flows->seed));
}

/* A collision costs a decision, as the first packet of any flow does. */
static struct flow *bucket_of(struct flows *flows, const struct key *key)
{
	return &flows->places[(uint64_t)hash_light(&flows->seed, key) * FLOWS >> 32];
}

static int same(const struct key *a, const struct key *b)
{
	uint64_t difference = 0;
	int i;

	for (i = 0; i < 5; i++)
		difference |= a->words[i] ^ b->words[i];
	return difference == 0;
}

static struct rule *decide(const struct rules *rules, const struct packet *packet, uint16_t vlan, int foreign,
			   enum drop *drop)
{
	struct rule *rule = NULL;

	*drop = DROP_UNMATCHED;
	if (!foreign)
		rule = rules_match(rules, packet, vlan, drop);
	if ((rule || *drop == DROP_UNMATCHED) && rules_is_own(rules, packet)) {
		*drop = DROP_OWN_OUTPUT;
		return NULL;
	}
	return rule;
}

struct rule *flows_decide(struct flows *flows, const struct rules *rules, const struct packet *packet, uint16_t vlan,
			  int foreign, enum drop *drop)
{
	struct key key = key_of(packet, vlan, foreign);
	struct flow *flow = bucket_of(flows, &key);

	if (flows->version != rules->version) {
		memset(flows->places, 0, sizeof(flows->places));
		flows->version = rules->version;
	}
	if (!same(&flow->key, &key)) {
		flow->rule = decide(rules, packet, vlan, foreign, &flow->drop);
		flow->key = key;
	}
	*drop = flow->drop;
	return flow->rule;
}
