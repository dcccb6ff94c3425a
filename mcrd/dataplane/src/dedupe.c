/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "dedupe.h"

#include <string.h>

enum { WAYS = 4, SETS = MCRD_DEDUPE_PAYLOADS / WAYS, A_LITTLE = 1000 /* ms that times of frames may go back */ };

static uint64_t add(uint64_t sum, const void *bytes, size_t length)
{
	const uint8_t *at = bytes;

	while (length-- > 0)
		sum = (sum ^ *at++) * 0x100000001b3ULL; /* FNV-1a: nobody chooses what is in a rule file to collide */
	return sum;
}

uint64_t dedupe_about(const struct rule_match *match, const struct network *networks, uint32_t interface)
{
	uint32_t i, count = match->source_count + match->exclude_count;
	uint64_t sum = 0xcbf29ce484222325ULL;

	sum = add(sum, &interface, sizeof(interface));
	sum = add(sum, match->first.address, sizeof(match->first.address));
	sum = add(sum, &match->first.port, sizeof(match->first.port));
	sum = add(sum, &match->last_port, sizeof(match->last_port));
	sum = add(sum, &match->bits, sizeof(match->bits));
	sum = add(sum, &match->vlan, sizeof(match->vlan));
	sum = add(sum, &match->source_count, sizeof(match->source_count));
	for (i = 0; i < count; i++) {
		sum = add(sum, networks[i].address, sizeof(networks[i].address));
		sum = add(sum, &networks[i].bits, sizeof(networks[i].bits));
	}
	return sum;
}

static uint32_t age_of(const struct dedupe_payload *known, uint32_t now)
{
	uint32_t age = now - __atomic_load_n(&known->passed, __ATOMIC_RELAXED);

	return age > UINT32_MAX - A_LITTLE ? 0 : age;
}

int dedupe_knows(const struct guard *guard, const struct rule *rule, const struct guard_frame *frame,
		 const uint8_t *payload, uint32_t length)
{
	uint64_t tag = guard_hash(guard, frame->destination + rule->dedupe_about, payload, length) | 1;
	struct dedupe_payload *set = guard->shared->payloads + (tag >> 32) % SETS * WAYS, *oldest = set;
	int i;

	for (i = 0; i < WAYS; i++) {
		struct dedupe_payload *known = &set[i];

		if (__atomic_load_n(&known->tag, __ATOMIC_RELAXED) == tag) {
			if (age_of(known, frame->now) < rule->match.dedupe)
				return 1;
			oldest = known;
			break;
		}
		if (age_of(known, frame->now) > age_of(oldest, frame->now))
			oldest = known;
	}
	__atomic_store_n(&oldest->passed, frame->now, __ATOMIC_RELAXED);
	__atomic_store_n(&oldest->tag, tag, __ATOMIC_RELAXED);
	return 0;
}
