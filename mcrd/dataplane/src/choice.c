/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "choice.h"

#include <stdlib.h>
#include <string.h>

#include "counters.h"

struct choice *choice_new(uint32_t number, uint32_t sample, uint8_t family, const struct source_run *runs,
			  uint32_t run_count)
{
	struct choice *choice = malloc(sizeof(*choice) + run_count * sizeof(runs[0]));

	if (!choice)
		return NULL;
	*choice = (struct choice){ number, sample, family == 6 ? 16 : 4, run_count };
	if (run_count)
		memcpy(choice->runs, runs, run_count * sizeof(runs[0]));
	return choice;
}

static int wants(const struct choice *choice, const uint8_t *source)
{
	uint32_t low = 0, high = choice->run_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct source_run *run = &choice->runs[middle];

		if (memcmp(source, run->first, choice->size) < 0)
			high = middle;
		else if (memcmp(source, run->last, choice->size) > 0)
			low = middle + 1;
		else
			return 1;
	}
	return choice->run_count == 0;
}

int choice_takes(const struct choice *choice, struct output_counters *counters, const uint8_t *source)
{
	uint64_t turn;

	if (!wants(choice, source)) {
		count(&counters->skipped.not_wanted, 1);
		return 0;
	}
	if (choice->sample <= 1)
		return 1;
	/* It may have been another sample before. */
	turn = counters->turn < choice->sample ? counters->turn : 0;
	counters->turn = turn + 1 < choice->sample ? turn + 1 : 0;
	if (turn == 0)
		return 1;
	count(&counters->skipped.not_sampled, 1);
	return 0;
}
