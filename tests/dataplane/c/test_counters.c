/* counters.c: a place for each errno, and one for all that find none.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "counters.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "meter.h"

static void test_count(void)
{
	uint64_t counter = 0;

	check_about("count");
	count(&counter, 1);
	count(&counter, 0xffffffff);
	CHECK_EQUAL(counter, 0x100000000LL);
}

static void test_places(void)
{
	static const int numbers[] = { ENETUNREACH, EPERM, ENOBUFS, EAGAIN, EINVAL, EMSGSIZE, ENETDOWN };
	struct output_counters *output = calloc(1, sizeof(*output)), untouched;
	uint32_t i, round;

	if (!output)
		abort();
	untouched = *output;
	check_about("places");
	for (round = 1; round <= 3; round++) {
		for (i = 0; i < MCRD_ERROR_PLACES - 1; i++)
			count_errors(output, numbers[i], 1);
		for (i = 0; i < MCRD_ERROR_PLACES - 1; i++) {
			CHECK_EQUAL(output->errors[i].number, numbers[i]);
			CHECK_EQUAL(output->errors[i].count, round);
		}
	}
	/* The last place has no number, whatever comes. */
	count_errors(output, EIO, 1);
	count_errors(output, ENODEV, 1);
	count_errors(output, EIO, 1);
	CHECK_EQUAL(output->errors[MCRD_ERROR_PLACES - 1].number, 0);
	CHECK_EQUAL(output->errors[MCRD_ERROR_PLACES - 1].count, 3);
	/* Who has a place keeps it. */
	count_errors(output, ENETDOWN, 1);
	count_errors(output, ENETUNREACH, 1);
	CHECK_EQUAL(output->errors[MCRD_ERROR_PLACES - 2].count, 4);
	CHECK_EQUAL(output->errors[0].count, 4);
	count_errors(output, ENETUNREACH, 64);
	CHECK_EQUAL(output->errors[0].count, 68);
	CHECK_EQUAL(output->errors[MCRD_ERROR_PLACES - 1].count, 3);
	CHECK(memcmp(output, &untouched, offsetof(struct output_counters, errors)) == 0);
	free(output);
}

static void test_unsent(void)
{
	struct output_counters *outputs = calloc(4, sizeof(*outputs));
	uint64_t known[4] = { 0 };
	uint32_t slots[3] = { 9, 9, 9 };

	if (!outputs)
		abort();
	check_about("unsent");
	CHECK_EQUAL(counters_unsent(outputs, 3, known, slots), 0);
	count(&outputs[0].traffic.packets, 5);
	count(&outputs[0].refused, 5);
	count(&outputs[0].dropped.new_member, 5);
	count_errors(&outputs[1], EPERM, 2);
	count_errors(&outputs[2], EIO, 1);
	count(&outputs[2].dropped.rate_limited, 7);
	count_errors(&outputs[3], EIO, 1); /* beyond the end */
	CHECK_EQUAL(counters_unsent(outputs, 3, known, slots), 2);
	CHECK_EQUAL(slots[0], 1);
	CHECK_EQUAL(slots[1], 2);
	CHECK_EQUAL(slots[2], 9);
	CHECK_EQUAL(known[2], 8);
	CHECK_EQUAL(known[3], 0);
	CHECK_EQUAL(counters_unsent(outputs, 3, known, slots), 0);
	memset(&outputs[2], 0, sizeof(*outputs)); /* the slot was given to another */
	CHECK_EQUAL(counters_unsent(outputs, 3, known, slots), 1);
	CHECK_EQUAL(slots[0], 2);
	free(outputs);
}

static void test_glances(void)
{
	struct segment *segment = calloc(1, sizeof(*segment));
	uint64_t now = 100 * 60 * 1000000000ULL, began = 0;
	struct glance glances[2];
	struct rule_counters *rule;
	uint32_t i;

	if (!segment)
		abort();
	check_about("glances");
	rule = &segment->rules[1];
	meter_note(&rule->meter, &rule->traffic, &began, now);
	count(&rule->traffic.packets, 120);
	count(&rule->traffic.bytes, 1200);
	counters_of_rules(segment, 2, now + 1000000000, glances);
	CHECK_EQUAL(glances[0].packets, 0);
	CHECK_EQUAL(glances[1].packets, 120);
	CHECK_EQUAL(glances[1].bytes, 1200);
	CHECK_EQUAL(glances[1].peak, 120);
	CHECK_EQUAL(glances[1].minute_packets, 1000 * 120 / 61);
	CHECK_EQUAL(glances[1].minute_bytes, 1000 * 1200 / 61);
	CHECK_EQUAL(glances[1].minute_peak, 120);
	CHECK_EQUAL(glances[1].losses, 0);
	count(&rule->duplicate, 5); /* misses nobody */
	count(&rule->rate_limited, 1);
	segment->inspections[1].missing = 2; /* of long ago */
	segment->switches[1].used = 1;
	segment->switches[1].since = 7;
	counters_of_rules(segment, 2, now, glances);
	CHECK_EQUAL(glances[1].losses, 1);
	CHECK_EQUAL(glances[1].missing, 2);
	CHECK_EQUAL(glances[1].used, 1);
	CHECK_EQUAL(glances[1].since, 7);
	for (i = 0; i < 2; i++) { /* after `now`: the worker has gone on meanwhile */
		segment->inspections[1].seen = now + i;
		counters_of_rules(segment, 2, now, glances);
		CHECK_EQUAL(glances[1].missing, 0);
	}
	count(&segment->inspections[1].lost, 2);
	count(&segment->inspections[1].continuity, 1);
	counters_of_rules(segment, 2, now, glances);
	CHECK_EQUAL(glances[1].losses, 4);
	count(&segment->outputs[0].dropped.new_member, 3);
	count_errors(&segment->outputs[0], EIO, 1);
	count(&segment->outputs[0].skipped.not_wanted, 9);
	counters_of_outputs(segment, 1, now, glances);
	CHECK_EQUAL(glances[0].losses, 4);
	free(segment);
}

int main(void)
{
	test_count();
	test_places();
	test_unsent();
	test_glances();
	return check_result();
}
