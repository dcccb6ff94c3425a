/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "breaker.h"

/* Windows in half of a test. */
#define PART (BREAKER_WINDOW * 1000000ULL / BREAKER_HALF_NS)

int breaker_is_cut(const struct breaker *breaker, uint32_t now)
{
	return breaker->lasts != 0 && now - breaker->cut < breaker->lasts;
}

uint32_t breaker_note(struct breaker *breaker, int known, uint32_t now)
{
	uint32_t all, found, gap;

	breaker->all++;
	if (known) {
		breaker->known++;
		gap = now - breaker->last;
		breaker->last = now;
		if (gap > breaker->gap)
			breaker->gap = gap;
	}
	if (now - breaker->window < BREAKER_WINDOW)
		return 0;
	/* What is over longer ago than this says nothing of a rate. */
	all = now - breaker->window < 2 * BREAKER_WINDOW ? breaker->all : 0;
	found = breaker->known;
	gap = breaker->gap;
	breaker->window = now;
	breaker->all = breaker->known = breaker->gap = 0;
	if (now - breaker->busy > BREAKER_LONGEST)
		breaker->trusted = breaker->silent = 0;
	if (breaker->lasts && now - breaker->cut > breaker->lasts + BREAKER_FORGET)
		breaker->lasts = 0;
	if (all == 0 || found < BREAKER_FROM || found < all / 2)
		return 0;
	breaker->busy = now;
	if (gap > BREAKER_GAP || found <= 4 * (uint64_t)breaker->trusted || (int32_t)(now - breaker->next) < 0)
		return 0;
	return found;
}

void breaker_begin(struct breaker_test *test, uint32_t rule, uint32_t known, uint64_t now)
{
	*test = (struct breaker_test){
		.began = now,
		.ends = now + BREAKER_HOLD_NS,
		.rule = rule,
		.expected = known / PART,
		.held = 1,
	};
}

void breaker_end(struct breaker *breaker, const struct breaker_test *test, uint32_t now)
{
	if (test->came > 0 && test->came >= test->expected / 4) {
		breaker->trusted = test->expected * PART;
		breaker->silent = 0;
		return;
	}
	if (++breaker->silent < BREAKER_TESTS) {
		/* Not in step with the tests of another relay. */
		breaker->next = now + BREAKER_WINDOW + (uint32_t)(test->began >> 8) % BREAKER_WINDOW;
		return;
	}
	breaker->silent = 0;
	breaker->cut = now;
	breaker->lasts = breaker->lasts ? 2 * breaker->lasts : BREAKER_SHORTEST;
	if (breaker->lasts > BREAKER_LONGEST)
		breaker->lasts = BREAKER_LONGEST;
}
