/* What fuzz drivers do to frames that were right.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MUTATE_H
#define MUTATE_H

#include <stdio.h>
#include <stdlib.h>

#include "frames.h"

#define ENSURE(condition)                                                    \
	do {                                                                 \
		if (!(condition)) {                                          \
			fprintf(stderr, "broken: %s\n", #condition);         \
			abort();                                             \
		}                                                            \
	} while (0)

static uint64_t mutate_state = 0x9e3779b97f4a7c15ULL;

static inline uint32_t below(uint32_t end)
{
	mutate_state ^= mutate_state << 13;
	mutate_state ^= mutate_state >> 7;
	mutate_state ^= mutate_state << 17;
	return (uint32_t)(mutate_state >> 33) % end;
}

/* What lengths are taken for: the ends of their ranges, and close to the truth. */
static inline uint32_t length_near(uint32_t truth)
{
	static const uint32_t ends[] = { 0, 1, 7, 8, 19, 20, 39, 40, 0x7fff, 0x8000, 0xfff8, 0xffff };

	return below(2) ? ends[below(sizeof(ends) / sizeof(ends[0]))] : truth + below(9) - 4;
}

#endif
