/* counters.c: a place for each errno, and one for all that find none.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "counters.h"

#include <errno.h>
#include <string.h>

#include "check.h"

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

int main(void)
{
	test_count();
	test_places();
	return check_result();
}
