/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "pace.h"

#include <time.h>

#define SECOND_NS 1000000000ULL
/* Long enough that a burst is not a rate, short enough that the change of state costs little. */
#define MEASURE_NS 1000000ULL
/* Frames per second. Apart, or a rate in between would change the state all the time. */
#define BUSY_FROM 200000ULL
#define BUSY_TO 140000ULL
/* The window grows with the rate: 100 us at 200,000 frames per second, 300 from 300,000 on. To sleep and wake costs 20 to
 * 35 us of CPU time: most of what a datagram costs where few come in a window. */
#define WINDOW_NS 100000ULL
#define WINDOW_FAST_NS 300000ULL
#define WINDOW_LONGEST_NS 400000ULL
/* Where many flows share the rate, each has few datagrams in a window, and a write costs as much as twenty of them. */
#define WINDOW_SHORT_RUNS_NS 1000000ULL
#define SHORT_RUN 16ULL

static uint64_t read_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

uint64_t pace_now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t pace_real_now(void)
{
	return read_clock(CLOCK_REALTIME);
}

int pace_note(struct pace *pace, uint64_t ended, uint32_t frames, uint64_t datagrams, uint64_t runs)
{
	uint64_t took = ended - pace->began, rate;

	pace->frames += frames;
	if (took < MEASURE_NS)
		return pace->busy;
	rate = pace->frames * SECOND_NS / took;
	pace->busy = rate >= (pace->busy ? BUSY_TO : BUSY_FROM);
	pace->window = WINDOW_NS;
	if (rate > BUSY_FROM)
		pace->window += 2 * (rate - BUSY_FROM);
	if (pace->window > WINDOW_FAST_NS)
		pace->window = WINDOW_FAST_NS;
	pace->short_runs = datagrams - pace->datagrams < SHORT_RUN * (runs - pace->runs);
	pace->datagrams = datagrams;
	pace->runs = runs;
	pace->began = ended;
	pace->frames = 0;
	return pace->busy;
}

uint64_t pace_sleep(const struct pace *pace, uint64_t began, uint64_t ended)
{
	uint64_t took = ended - began, window = 2 * took;
	uint64_t longest = pace->short_runs ? WINDOW_SHORT_RUNS_NS : WINDOW_LONGEST_NS;

	/* Where the work takes most of the window, more backlog makes better batches of it. */
	if (window < pace->window)
		window = pace->window;
	if (window > longest)
		window = longest;
	return window >= took + PACE_SHORTEST_NS ? window - took : 0;
}
