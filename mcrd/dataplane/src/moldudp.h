/* MoldUDP64 (Nasdaq, version 1.00): packets of numbered messages, in sessions.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_MOLDUDP_H
#define MCRD_MOLDUDP_H

#include "sequence.h"

enum {
	MOLD_SESSION = 10,
	MOLD_HEADER = 20,
	MOLD_GAPS = 16,       /* that are kept in mind: of more, the oldest are lost */
	MOLD_NEAR = 100000,   /* messages; so far from the others, a packet needs another to be believed */
	MOLD_AGAIN = 3,       /* so many packets in a row of the session before, and it is the session again */
};

/* Numbers in a row. */
struct mold_gap {
	uint64_t from, to; /* `to` is the one after the last */
};

struct mold {
	uint8_t session[MOLD_SESSION], before[MOLD_SESSION];
	uint8_t begun, has_before, has_stray, again;
	uint64_t next;
	struct mold_gap stray; /* what a packet far from all others had */
	uint64_t gap_time;
	uint64_t missing;
	uint32_t gap_count;
	struct mold_gap gaps[MOLD_GAPS]; /* the oldest first */
};

struct mold_packet {
	const uint8_t *session;
	uint64_t first;
	uint32_t messages; /* 0: a heartbeat, or the end of the session */
};

int mold_parse(const uint8_t *data, uint32_t length, struct mold_packet *packet);

/* Does all of it look like MoldUDP64, to who does not know? */
int mold_is(const uint8_t *data, uint32_t length);
void mold_note(struct mold *mold, const struct mold_packet *packet, uint64_t now, struct inspect_counters *counters);
void mold_give_up(struct mold *mold, struct inspect_counters *counters);

#endif
