/* The rules of a worker, their members, and the daemon's own egress endpoints. The first and the last change
 * between harvests only; a harvest adds members that are wanted.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_RULES_H
#define MCRD_RULES_H

#include "breaker.h"
#include "inspect.h"
#include "limit.h"
#include "packet.h"
#include "table.h"

struct output {
	uint32_t socket; /* place in the file table, or MCRD_BY_MEMBER */
	struct limit limit;
	struct output_counters *counters;
};

struct member;

/* One destination of a rule, among those of all rules. */
struct place {
	struct entry entry;
	struct rule *rule;
};

struct rule {
	struct place *places; /* its first destination, then the others */
	struct rule *next_range;
	struct rule_match match;
	struct limit limit;
	struct breaker breaker;
	struct rule_counters *counters;
	struct inspector *inspector; /* NULL: nobody asked for it */
	uint64_t window; /* of its meter */
	uint32_t slot;
	uint32_t output_count;
	uint32_t member_outputs; /* how many go by member */
	struct member *members;
	struct network *networks; /* sources, then excluded ones, then further destinations */
	struct output outputs[];
};

struct member {
	struct entry entry; /* the key is rule, destination and perhaps source */
	struct rule *rule;
	struct member *next, **link; /* among those of the rule */
	uint64_t *last_used;
	int open; /* its sockets are here; before that it is only wanted */
	struct output outputs[]; /* those of the rule that go by member; MCRD_BY_MEMBER: no socket could be had */
};

/* So few may wait for an answer that asking for them never fills the channel: a worker that had to wait there would
 * hold up every flow. */
enum { WANTED_AT_ONCE = 64, MEMBERS_MAX = 16384, WANTED_A_SECOND = 1000 };

struct rules {
	uint64_t version; /* changes with the rules, and with the daemon's own endpoints */
	struct table by_destination;
	struct rule *ranges;
	struct table members;
	struct table own; /* plain entries; the key is a source */
	struct rule *by_slot[MCRD_RULE_SLOTS];
	struct limit wanting;
	uint32_t unanswered; /* members that are wanted, and not open yet */
	uint32_t wanted_count; /* of those, the ones that have not been asked for */
	struct member_key wanted[WANTED_AT_ONCE];
};

int rules_init(struct rules *rules);
void rules_free(struct rules *rules);

struct rule *rule_new(const struct rule_match *match, const struct network *networks, uint32_t output_count);
void rule_free(struct rule *rule);

/* Takes over the rule; the one that had its slot is freed. Its members go with it, unless `kept` is there: for each
 * output of the new rule that goes by member, which of the old ones' it was, or MCRD_BY_MEMBER for none of them. */
void rules_put(struct rules *rules, struct rule *rule, const uint32_t *kept);
int rules_remove(struct rules *rules, uint32_t slot);
int rules_own(struct rules *rules, const struct endpoint *source, int add);

/* The rule that takes the packet; or NULL, and in `why` what comes nearest. */
struct rule *rules_match(const struct rules *rules, const struct packet *packet, uint16_t vlan, enum drop *why);
int rules_is_own(const struct rules *rules, const struct packet *packet);

/* The member that the packet belongs to, when its sockets are open; NULL when not, and then it is wanted. */
struct member *rules_member(struct rules *rules, struct rule *rule, const struct packet *packet, uint64_t now);
int rules_put_member(struct rules *rules, const struct member_key *key, uint64_t *last_used, const uint32_t *sockets,
		     uint32_t socket_count);
int rules_remove_member(struct rules *rules, const struct member_key *key);

#endif
