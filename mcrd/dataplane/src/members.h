/* Members: destinations of a range, and kept sources. Each has sockets of its own, which the supervisor opens when the first
 * packet has come. Until then what comes for a member waits (waiting.h).
 *
 * A member is new, then asked for, then open. Those that are new stand in a queue of their rule; rules take turns, so a
 * flood of one rule does not hold up another. No more are made than have a packet that waits or are asked for at once, and
 * no more are open than the supervisor wants: there is no other bound.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_MEMBERS_H
#define MCRD_MEMBERS_H

#include "rules.h"

enum member_state {
	MEMBER_NEW,   /* the supervisor does not know of it */
	MEMBER_ASKED, /* or has not answered */
	MEMBER_OPEN
};

struct member {
	struct entry entry; /* the key is rule, destination and perhaps source */
	struct rule *rule;
	struct member *next, **link; /* among those of the rule */
	struct member_key wanted;    /* as the supervisor is told */
	uint64_t came;               /* when the last packet did that waits; the time of its frame */
	uint64_t *last_used;
	enum member_state state;
	struct waiting_queue waiting;
	struct queued place; /* while it is new: rule->unasked; while it is open and packets wait: rules->ready */
	struct output outputs[]; /* those of the rule that go by member; MCRD_BY_MEMBER: no socket could be had; MCRD_UNWANTED */
};

/* The member that the packet belongs to; NULL: it is not known yet. `now` is the time of its frame. */
struct member *members_find(const struct rules *rules, const struct rule *rule, const struct packet *packet, uint64_t now);

/* Has the supervisor open the member of a packet that does not wait for it: of a rule that stands by, and keeps it. No more
 * are asked for so than the supervisor may be asked for now: another packet asks again. */
void members_prepare(struct rules *rules, struct rule *rule, const struct packet *packet, uint64_t now);

/* The datagram of that packet waits for the member, which is not open; NULL: not known. Else it counts as new_member,
 * for all outputs that choose it. Returns the member, if there is one now. */
struct member *members_wait(struct rules *rules, struct rule *rule, struct member *member, const struct packet *packet,
			    const uint8_t *payload, uint32_t length, uint64_t now);

/* Of an output that chooses, or has no socket of its own: what sends a datagram of that source. NULL: nothing does, which
 * is counted, or it has to wait. `member` is open, or NULL; `next` is which of its outputs comes next. */
const struct output *members_outlet(struct output *output, const struct member *member, uint32_t *next,
				    const uint8_t *source, uint64_t *failed);

/* Does the output send what waits? It has chosen when that came. */
static inline int members_is_for(const struct output *output, uint64_t skipping)
{
	return output->socket == MCRD_BY_MEMBER &&
	       !(output->choice && skipping & (uint64_t)1 << output->choice->number);
}

/* Takes members off the queues for the supervisor to be asked, as many as may be. */
void members_ask(struct rules *rules);
int members_next_wanted(struct rules *rules, struct member_key *key);

/* What has waited too long counts as new_member. */
void members_expire(struct rules *rules);

/* How long until something has to be done, in ns; 0: nothing. */
uint64_t members_sleep(const struct rules *rules);

/* A member that is open, for which packets wait; NULL: there is none. What waits is sent, and then ended. */
struct member *members_ready(const struct rules *rules);
void members_end_waiting(struct rules *rules, struct member *member);

int members_put(struct rules *rules, const struct member_key *key, uint64_t *last_used, const uint32_t *sockets,
		uint32_t socket_count);
int members_remove(struct rules *rules, const struct member_key *key);

/* For rules.c: what a rule's new form keeps of the members, see rules_put(); and the end of all of them. */
void members_keep(struct rules *rules, const struct rule *old, struct rule *rule, const uint32_t *kept);
void members_free(struct rules *rules, struct rule *rule);

#endif
