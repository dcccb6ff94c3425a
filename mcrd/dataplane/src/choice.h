/* Which datagrams of its rule an output sends: those of certain sources, and of these one in so many.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_CHOICE_H
#define MCRD_CHOICE_H

#include "shared.h"

/* The outputs of one rule that choose: what waits for members has a bit for each. */
enum { CHOICES = 64 };

struct choice {
	uint32_t number; /* among those of its rule, from 0 */
	uint32_t sample; /* one in so many; 1: each */
	uint32_t size;   /* of an address, in bytes */
	uint32_t run_count; /* 0: any source */
	struct source_run runs[];
};

/* The runs have to be sorted, and none may touch another. NULL: no memory. */
struct choice *choice_new(uint32_t number, uint32_t sample, uint8_t family, const struct source_run *runs,
			  uint32_t run_count);

/* Does the output send a datagram of that source? Else it is counted as one that it skips. */
int choice_takes(const struct choice *choice, struct output_counters *counters, const uint8_t *source);

#endif
