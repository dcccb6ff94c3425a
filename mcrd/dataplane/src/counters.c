/* Counting what went wrong, by errno.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "counters.h"

void count_errors(struct output_counters *output, int error, uint64_t by)
{
	int i;

	/* The last place takes every errno that found no place of its own; it is reported as number 0. */
	for (i = 0; i < MCRD_ERROR_PLACES - 1; i++) {
		struct error_counter *place = &output->errors[i];

		if (place->number == 0)
			__atomic_store_n(&place->number, (uint64_t)error, __ATOMIC_RELAXED);
		if (place->number == (uint64_t)error) {
			count(&place->count, by);
			return;
		}
	}
	count(&output->errors[i].count, by);
}
