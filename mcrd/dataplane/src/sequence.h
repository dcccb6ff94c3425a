/* Numbers that count up by one and wrap: what is missing, late or twice, and where they begin anew.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_SEQUENCE_H
#define MCRD_SEQUENCE_H

#include <stdint.h>

#include "shared.h"

enum {
	SEQUENCE_WINDOW = 512,   /* so late may a number be, */
	SEQUENCE_NEAR = 3000,    /* and so far ahead (MAX_DROPOUT of RFC 3550, A.1), to be believed at once */
	SEQUENCE_FAR = 1 << 20,  /* so far ahead is loss, if the next number agrees; else the numbers began anew */
	SEQUENCE_WORDS = SEQUENCE_WINDOW / 64,
};

/* So long is waited for what is missing: after that it is lost, when the next datagram comes. */
#define SEQUENCE_PATIENCE_NS 1000000000ULL

/* What follows from the number of bits. */
struct sequence_kind {
	uint64_t mask;
	uint64_t far;
	uint32_t near;
	uint32_t window; /* a power of two, at most a quarter of all numbers */
};

struct sequence {
	uint64_t next;     /* one more than the highest so far */
	uint64_t stray;    /* a number far from it, which the next one may confirm */
	uint64_t gap_time; /* of the last gap */
	uint32_t missing;  /* in the window */
	uint8_t begun, has_stray;
	uint64_t came[SEQUENCE_WORDS]; /* of the window below `next`: those that came, or were given up */
};

struct sequence_kind sequence_kind(unsigned int bits);
void sequence_note(struct sequence *sequence, const struct sequence_kind *kind, uint64_t number, uint64_t now,
		   struct inspect_counters *counters);

/* Is it the next number, and nothing else to note? Most are, so this has to be quick. With nothing missing, all of
 * the window came. */
static inline int sequence_goes_on(struct sequence *sequence, uint64_t mask, uint64_t number)
{
	if (number != sequence->next || sequence->missing || sequence->has_stray || !sequence->begun)
		return 0;
	sequence->next = (number + 1) & mask;
	return 1;
}

/* What is missing is lost. */
void sequence_give_up(struct sequence *sequence, struct inspect_counters *counters);

/* Counts what is lost, and when that was seen. */
void inspect_lose(struct inspect_counters *counters, uint64_t lost, uint64_t when);
void inspect_event(struct inspect_event *event, uint64_t count, uint64_t when);
void inspect_gap(struct inspect_counters *counters, uint64_t length);

#endif
