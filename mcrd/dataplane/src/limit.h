/* A limit in packets per second: how many passed in each part of the last second is remembered, and no more pass
 * in all of them than the limit says. So bursts pass that are within it over a second; no second sees more than
 * the limit, and a long one of too much at most half a per cent less.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_LIMIT_H
#define MCRD_LIMIT_H

#include <stdint.h>

/* One more than make a second: what passed late in the oldest is then a second old. */
enum { LIMIT_PARTS = 201 };

struct limit {
	uint32_t rate; /* packets per second; 0: no limit */
	uint32_t sum;  /* of all parts */
	uint64_t part; /* the latest one, counted from the epoch */
	uint32_t *passed;
};

/* Returns 0 or -ENOMEM. */
int limit_init(struct limit *limit, uint32_t packets_per_second);
void limit_free(struct limit *limit);

/* May a packet pass that came at `now`, in nanoseconds? */
int limit_pass(struct limit *limit, uint64_t now);

#endif
