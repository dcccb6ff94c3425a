/* When to look at the rings again. At a low rate the kernel wakes us for every frame: that is promptest. At a high
 * one it would wake us for nothing else, so nothing is armed, and a timer says when to look.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_PACE_H
#define MCRD_PACE_H

#include <stdint.h>

struct pace {
	uint64_t began;  /* the measurement under way, CLOCK_MONOTONIC in ns */
	uint64_t frames; /* since then */
	uint64_t window; /* from the beginning of a harvest to that of the next, in ns, while busy */
	uint64_t datagrams; /* sent until then, */
	uint64_t runs;      /* by so many writes */
	int busy;
	int short_runs;
};

/* Before what is nothing but a sleep; a shorter one costs more than it saves. */
enum { PACE_SHORTEST_NS = 5000 };

uint64_t pace_now(void);
uint64_t pace_real_now(void); /* as the times of frames */

/* A harvest that began and ended then took so many frames; so many datagrams were sent so far, by so many writes. Is
 * the rate high? */
int pace_note(struct pace *pace, uint64_t ended, uint32_t frames, uint64_t datagrams, uint64_t runs);

/* How long to sleep after that harvest, in ns, while the rate is high; 0: not at all. */
uint64_t pace_sleep(const struct pace *pace, uint64_t began, uint64_t ended);

#endif
