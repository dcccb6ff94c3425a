/* One stream that comes by several inputs, its legs: the first copy of each datagram passes, the others do not.
 *
 * What makes two datagrams copies is in the rule: the numbers of RTP (sequence number, timestamp and SSRC, as SMPTE
 * ST 2022-7 has it), a number or header anywhere in the payload, or all bytes. A datagram without what the rule goes by is
 * told by all bytes. What passed is remembered for MERGE_WITHIN_NS, in the segment: so the worker that replaces this one
 * goes on. Numbers that begin anew or wrap are no case of their own: by then, the old ones are forgotten, or the
 * contents differ.
 *
 * Contents that a leg says again are paired: the second of one leg is the copy of the second of another.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_MERGE_H
#define MCRD_MERGE_H

#include "guard.h"
#include "shared.h"

#define MERGE_WITHIN_NS 2000000000ULL
#define MERGE_SURELY_NS 500000000ULL /* what makes room for others before that is counted: there are too many */

enum {
	MERGE_WAYS = 8,
	MERGE_SETS = MCRD_MERGE_COPIES / MERGE_WAYS,
	MERGE_BEHIND = 15, /* so far may a leg be behind another with contents that are said again and again */
};

/* What came first within a period, and is not settled yet: copies may follow. */
struct merge_pending {
	uint64_t first[MCRD_LEGS];  /* that a leg brought first, */
	uint64_t shared[MCRD_LEGS]; /* and another one too */
	uint64_t second[MCRD_LEGS]; /* copies that a leg brought of what another one brought first */
};

struct order;

struct merge_stream {
	struct merge_stream *next;
	struct order *order; /* in which it leaves; NULL: as it comes. The worker makes and frees it. */
	uint64_t id;
	uint32_t users;
	uint64_t period; /* MERGE_WITHIN_NS each; the last one that began */
	struct merge_pending pending[2];
	struct merge_counters *legs[MCRD_LEGS]; /* NULL: not there now */
};

int merge_is_possible(const struct merge_settings *settings);

/* The stream of these settings, which has one more user; NULL: no memory. */
struct merge_stream *merge_join(struct merge_stream **streams, const struct merge_settings *settings,
				struct merge_counters *counters);
void merge_leave(struct merge_stream **streams, struct merge_stream *stream, const struct merge_counters *counters);

/* What a datagram is remembered by. */
struct merge_name {
	uint64_t hash; /* of what copies have in common */
	uint16_t check;
	uint8_t again; /* it may be said again, as a heartbeat is */
};

/* Names a datagram, and has the CPU fetch where it is remembered: best before the datagram ahead of it is relayed. */
void merge_look(const struct merge_settings *settings, const struct merge_copy *copies, const struct guard *guard,
		const uint8_t *payload, uint32_t length, struct merge_name *name);

/* Is it the first copy? All is counted. `now` is the time of its frame, in ns. `resumed`: that
 * came before this worker began, and the one before may have had it. */
int merge_is_first(struct merge_stream *stream, uint32_t leg, struct merge_copy *copies, const struct merge_name *name,
		   int resumed, uint64_t now);

/* Of a rule that merges nothing: has another leg brought it just before, as its number says? Else it is remembered. */
int merge_knows(const struct merge_settings *settings, struct merge_counters *counters, struct merge_copy *copies,
		const struct guard *guard, const uint8_t *payload, uint32_t length, uint64_t now);

#endif
