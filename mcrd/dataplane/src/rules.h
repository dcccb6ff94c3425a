/* The rules of a worker, and the daemon's own egress endpoints. Both change between harvests only; of members
 * (members.h) a harvest adds those that are new.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_RULES_H
#define MCRD_RULES_H

#include "breaker.h"
#include "choice.h"
#include "inspect.h"
#include "limit.h"
#include "merge.h"
#include "packet.h"
#include "queue.h"
#include "switch.h"
#include "table.h"
#include "waiting.h"

struct output {
	uint32_t socket; /* place in the file table, MCRD_BY_MEMBER or MCRD_NOWHERE */
	struct limit limit;
	struct output_counters *counters;
	struct choice *choice; /* NULL: it sends all that it gets */
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
	struct merge_stream *merge;  /* that it is a leg of; NULL: of none. The worker joins and leaves. */
	struct switch_stream *switches; /* likewise */
	uint64_t window; /* of its meter */
	uint64_t dedupe_about; /* what tells its payloads from those of others */
	uint32_t slot;
	uint32_t output_count;
	uint32_t takes_over;     /* it sends its backlog first: backlog.h */
	uint32_t member_outputs; /* how many go by member */
	struct member *members;
	struct queued unasked; /* those of them that are new */
	struct queued turn;    /* among the rules that have such */
	struct network *networks; /* sources, then excluded ones, then further destinations */
	struct output outputs[];
};

/* So few may wait for an answer that asking for them never fills the channel: a worker that had to wait there would
 * hold up every flow. */
enum { WANTED_AT_ONCE = 64, WANTED_A_SECOND = 1000 };

struct rules {
	uint64_t version; /* changes with the rules, and with the daemon's own endpoints */
	struct table by_destination;
	struct rule *ranges;
	struct table members;
	struct table own; /* plain entries; the key is a source */
	struct rule *by_slot[MCRD_RULE_SLOTS];
	uint64_t now; /* CLOCK_MONOTONIC, in ns, when the loop last looked */
	struct waiting waiting;
	struct queued asking; /* rules, that have members to ask for */
	struct queued ready;  /* members, whose packets wait no more */
	struct limit wanting;
	uint32_t unanswered; /* members that were asked for, and are not open yet */
	uint32_t wanted_count, wanted_taken; /* of those that the supervisor is to hear of */
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

#endif
