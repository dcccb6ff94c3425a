/* The last resort against a loop: one in which nothing tells who brings a thing back from who said it first (guard.h).
 * To a relay that is a sender that says the same again and again, as some sensors do. A rule to which known contents
 * come fast is put to the test: nothing is relayed for a moment, while all waits in the rings. A loop falls silent then;
 * a sender goes on, and has lost nothing.
 *
 * After several silent tests, known contents are dropped for a time; new ones pass.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_BREAKER_H
#define MCRD_BREAKER_H

#include <stdint.h>

enum {
	BREAKER_WINDOW = 50,      /* ms */
	BREAKER_FROM = 50,        /* known contents in a window: 1000 in a second */
	BREAKER_GAP = 5,          /* ms between known contents: who pauses for longer may do so in a test */
	BREAKER_TESTS = 3,        /* silent ones in a row; a relay before this one may have held up a stream for its own */
	BREAKER_SHORTEST = 5000,  /* ms without known contents; it doubles each time, up to */
	BREAKER_LONGEST = 60000,
	BREAKER_FORGET = 120000,  /* ms after the end of it */
};

#define BREAKER_HOLD_NS 20000000ULL
#define BREAKER_HALF_NS 10000000ULL /* a loop needs less for a round */

/* Of a rule. */
struct breaker {
	uint32_t window;  /* when it began, in ms */
	uint32_t all;     /* datagrams in it, */
	uint32_t known;   /* and of those, what was said before */
	uint32_t last;    /* when the last of those came, in ms, */
	uint32_t gap;     /* and the longest time between two */
	uint32_t trusted; /* known contents in a window that a test has found to be no loop */
	uint32_t busy;    /* when there were enough for a test last, in ms */
	uint32_t silent;  /* tests in a row */
	uint32_t next;    /* when the next one may be, in ms */
	uint32_t cut;     /* since when known contents are dropped, in ms */
	uint32_t lasts;   /* for how long; 0: they are not, and were not lately */
};

/* A test that is under way; times are those of frames, in ns. */
struct breaker_test {
	uint64_t began;    /* 0: none is */
	uint64_t ends;
	uint32_t rule;     /* slot */
	uint32_t expected; /* known contents in the second half, of a sender of its own */
	uint32_t came;
	int held;          /* frames wait */
};

/* Are known contents dropped? */
int breaker_is_cut(const struct breaker *breaker, uint32_t now);

/* A datagram is relayed. Returns how many known contents came in a window, when a test is due; 0: none is. */
uint32_t breaker_note(struct breaker *breaker, int known, uint32_t now);

void breaker_begin(struct breaker_test *test, uint32_t rule, uint32_t known, uint64_t now);

/* What a test has found. */
void breaker_end(struct breaker *breaker, const struct breaker_test *test, uint32_t now);

/* A known content of the rule under test, that came at `time`. */
static inline void breaker_came(struct breaker_test *test, uint64_t time)
{
	test->came += time > test->began + BREAKER_HALF_NS && time <= test->ends;
}

#endif
