/* Counting what went wrong, by errno; and finding where it did.
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

/* By an error, for a limit, or for want of a way. */
static uint64_t unsent(const struct output_counters *output)
{
	uint64_t sum = __atomic_load_n(&output->dropped.rate_limited, __ATOMIC_RELAXED);
	int i;

	sum += __atomic_load_n(&output->dropped.unreachable, __ATOMIC_RELAXED);
	for (i = 0; i < MCRD_ERROR_PLACES; i++)
		sum += __atomic_load_n(&output->errors[i].count, __ATOMIC_RELAXED);
	return sum;
}

uint32_t counters_unsent(const struct output_counters *outputs, uint32_t count, uint64_t *known, uint32_t *slots)
{
	uint32_t found = 0, slot;

	for (slot = 0; slot < count; slot++) {
		uint64_t now = unsent(&outputs[slot]);

		if (now != known[slot]) {
			known[slot] = now;
			slots[found++] = slot;
		}
	}
	return found;
}
