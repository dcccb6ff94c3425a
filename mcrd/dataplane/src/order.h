/* Datagrams of a stream in the order of their numbers: what comes after a gap waits until the gap is filled, or its time
 * is over. They wait in memory of the stream's own (waiting.h), which is made with it.
 *
 * A number that was used already, or is far from the one that is due, is a stray until a second one near it comes, as
 * the probation of RFC 3550, A.1, has it. It leaves at once, and the stream goes on where it was. The second one begins the
 * stream anew: all that waits leaves first. What is ahead and not too far waits; where it is alone when its time is over,
 * it is a stray as well.
 *
 * Whichever comes first, a stream begins with it, and others before it may be on their way: nobody has waited for these. So
 * they leave at once, until the delay has passed since the first one.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_ORDER_H
#define MCRD_ORDER_H

#include "waiting.h"

enum {
	ORDER_WINDOW = 16384, /* numbers from the one that is due on, and as many before it; a power of two */
	ORDER_BEFORE = 4096,  /* numbers before the first one that are taken for late ones */
	ORDER_LATE = 64,      /* so many late ones in a row, and nothing else: the numbers have begun anew */
	ORDER_NEAR = 32,      /* numbers that one may be from another, and be of the same stream without a second one */
};

enum order_answer {
	ORDER_NOW,   /* it is due: order_pass() it, then what order_next() has */
	ORDER_WAITS, /* it is to be held */
	ORDER_LATE_ONE, /* its place has gone by */
	ORDER_STRAY, /* it leaves at once, and nothing else changes */
	ORDER_ANEW   /* all that waits leaves, then order_begin() with it; it is asked for again then */
};

/* Where a datagram stands. */
struct order_place {
	uint64_t stream; /* the SSRC, or what tells a session from another */
	uint64_t number;
	uint32_t span;   /* of numbers, at least 1 */
	uint8_t bits;    /* of a number */
};

struct order {
	uint32_t place; /* among those of the worker */
	uint64_t delay; /* in ns */
	uint64_t stream;
	uint64_t due;
	uint64_t highest; /* that has come */
	uint64_t mask;   /* of the numbers */
	uint32_t window; /* fewer than ORDER_WINDOW where numbers are short */
	uint32_t places; /* in use of what follows: a power of two */
	uint32_t known;  /* numbers before the one that is due of which it is known what became of them */
	uint32_t late;   /* in a row */
	uint64_t began;  /* when its first one came, */
	uint64_t gone;   /* and how many numbers have been due since */
	uint32_t held;
	int begun;
	int in_turn; /* the last one that left was due, and no other was given up for it, nor left as a stray */
	int passed;  /* one has left since the stream began */
	struct order_place stray; /* the last one; `span` is 0: none since the stream went on */
	struct waiting_queue queue; /* as they came; with what has left and is not written yet */
	struct waiting_packet *oldest; /* of the queue; those before it have left */
	uint64_t sent[ORDER_WINDOW / 64]; /* of the numbers before the one that is due */
	uint64_t there[ORDER_WINDOW / 64]; /* of those from it on */
	struct waiting_packet *packets[ORDER_WINDOW];
	struct waiting waiting;
};

struct order *order_new(uint64_t delay, uint32_t place); /* NULL: no memory */
void order_free(struct order *order);

/* What becomes of a datagram of that place that came at this time. */
enum order_answer order_ask(struct order *order, const struct order_place *place, uint64_t now);

/* The stream begins with it, or with the stray before it. Nothing may wait. */
void order_begin(struct order *order, const struct order_place *place, uint64_t now);

/* Has a higher number come before it? Asked once for each that is not late. */
int order_is_behind(struct order *order, const struct order_place *place);

/* What is due leaves. */
void order_pass(struct order *order, const struct order_place *place);

/* Holds it, after ORDER_WAITS. `rule` is the slot of its rule, `now` any time. NULL: there is no room. */
struct waiting_packet *order_hold(struct order *order, uint32_t rule, const struct order_place *place,
				  const uint8_t *payload, uint32_t length, uint64_t now);

/* What is due leaves, if it waits. `anyway`: else the first after it, and nothing before that is waited for any more.
 * NULL: nothing leaves. What it holds stays until order_settle(). */
struct waiting_packet *order_next(struct order *order, int anyway);

/* What leaves for the one that order_first() had: that one alone if it is a stray, else the lowest number that waits. */
struct waiting_packet *order_give_up(struct order *order);

/* The one that has waited longest; NULL: none waits. */
const struct waiting_packet *order_first(struct order *order);

/* All that has left is written: its memory is free. */
void order_settle(struct order *order);

#endif
