/* The same payload again: a rule that asks for it relays it once within a time, whoever sends it. Made of what guard.c tells
 * contents apart by, but all bytes count, and more are remembered.
 *
 * All workers of the daemon share what they know, since two senders of one stream may be two workers'. Where more arrives in
 * the time than there is room for, some of it is relayed again.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_DEDUPE_H
#define MCRD_DEDUPE_H

#include "guard.h"
#include "rules.h"

/* A number for the rule, the same in all workers. */
uint64_t dedupe_about(const struct rule_match *match, const struct network *networks, uint32_t interface);

/* Was the payload relayed within the rule's time? Else it is now, and that is noted. */
int dedupe_knows(const struct guard *guard, const struct rule *rule, const struct guard_frame *frame,
		 const uint8_t *payload, uint32_t length);

#endif
