/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "limit.h"

#define SECOND 1000000000ULL
#define BURST_SECONDS 0.008

void limit_init(struct limit *limit, uint32_t packets_per_second)
{
	limit->rate = packets_per_second;
	limit->room = 1 + packets_per_second * BURST_SECONDS;
	limit->tokens = 1;
	limit->at = 0;
}

int limit_pass(struct limit *limit, uint64_t now)
{
	if (limit->rate == 0)
		return 1;
	if (limit->at == 0) {
		limit->at = now;
	} else if (now > limit->at) {
		limit->tokens += (double)(now - limit->at) * limit->rate / SECOND;
		if (limit->tokens > limit->room)
			limit->tokens = limit->room;
		limit->at = now;
	} else if (limit->at - now > SECOND) {
		limit->at = now; /* the clock was set back */
	}
	if (limit->tokens < 1)
		return 0;
	limit->tokens -= 1;
	return 1;
}
