/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "limit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PART_NS (1000000000ULL / (LIMIT_PARTS - 1))

int limit_init(struct limit *limit, uint32_t packets_per_second)
{
	memset(limit, 0, sizeof(*limit));
	if (packets_per_second == 0)
		return 0;
	limit->passed = calloc(LIMIT_PARTS, sizeof(*limit->passed));
	if (!limit->passed)
		return -ENOMEM;
	limit->rate = packets_per_second;
	return 0;
}

void limit_free(struct limit *limit)
{
	free(limit->passed);
	limit->passed = NULL;
}

static void forget_all(struct limit *limit, uint64_t part)
{
	memset(limit->passed, 0, LIMIT_PARTS * sizeof(*limit->passed));
	limit->sum = 0;
	limit->part = part;
}

int limit_pass(struct limit *limit, uint64_t now)
{
	uint64_t part = now / PART_NS;

	if (limit->rate == 0)
		return 1;
	/* Times may be a little out of order; a second back, and the clock was set. */
	if (part >= limit->part + LIMIT_PARTS || part + LIMIT_PARTS <= limit->part)
		forget_all(limit, part);
	while (limit->part < part) {
		uint32_t *oldest = &limit->passed[++limit->part % LIMIT_PARTS];

		limit->sum -= *oldest;
		*oldest = 0;
	}
	if (limit->sum >= limit->rate)
		return 0;
	limit->sum++;
	limit->passed[limit->part % LIMIT_PARTS]++;
	return 1;
}
