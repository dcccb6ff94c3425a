/* A limit in packets per second: a token bucket that is empty at first and holds eight milliseconds' worth,
 * so that what passes is within one per cent of the limit over any second, and evenly spread.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_LIMIT_H
#define MCRD_LIMIT_H

#include <stdint.h>

struct limit {
	double rate; /* packets per second; 0: no limit */
	double room;
	double tokens;
	uint64_t at; /* nanoseconds */
};

void limit_init(struct limit *limit, uint32_t packets_per_second);

/* May a packet pass that came at `now`, in nanoseconds? */
int limit_pass(struct limit *limit, uint64_t now);

#endif
