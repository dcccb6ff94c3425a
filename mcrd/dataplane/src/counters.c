/* Counting what went wrong, by errno; and finding where it did.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "counters.h"

#include "meter.h"

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

static struct glance look(const struct meter *meter, const struct traffic *traffic, uint64_t now)
{
	struct rates rates;

	meter_read(meter, traffic, now, &rates);
	return (struct glance){
		.packets = rates.second.packets,
		.bytes = rates.second.bytes,
		.peak = rates.second_peak,
		.minute_packets = 1000 * rates.minute.packets / rates.minute_seconds,
		.minute_bytes = 1000 * rates.minute.bytes / rates.minute_seconds,
		.minute_peak = rates.minute_peak,
	};
}

/* `seen` may be after `now`: the worker has gone on, or the clock was set back. */
static uint64_t missing(const struct inspect_counters *found, uint64_t now)
{
	return (int64_t)(now - found->seen) > (int64_t)MCRD_MISSING_NS ? found->missing : 0;
}

void counters_of_rules(const struct segment *segment, uint32_t count, uint64_t now, struct glance *glances)
{
	uint32_t slot;

	for (slot = 0; slot < count; slot++) {
		const struct rule_counters *rule = &segment->rules[slot];
		const struct inspect_counters *inspected = &segment->inspections[slot];

		glances[slot] = look(&rule->meter, &rule->traffic, now);
		glances[slot].losses = rule->rate_limited + rule->looped + rule->cut_off + rule->too_late +
				       inspected->lost + inspected->continuity;
		glances[slot].missing = missing(inspected, now);
		glances[slot].used = segment->switches[slot].used;
		glances[slot].since = segment->switches[slot].since;
	}
}

void counters_of_outputs(const struct segment *segment, uint32_t count, uint64_t now, struct glance *glances)
{
	uint32_t slot;

	for (slot = 0; slot < count; slot++) {
		const struct output_counters *output = &segment->outputs[slot];

		glances[slot] = look(&output->meter, &output->traffic, now);
		glances[slot].losses = unsent(output) + output->dropped.new_member + output->dropped.crashed;
	}
}
