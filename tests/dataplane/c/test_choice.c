/* choice.c: which datagrams of its rule an output sends.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "choice.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

static struct output_counters counters;

static int takes(const struct choice *choice, const uint8_t *source)
{
	/* In memory that holds no byte more. */
	uint8_t *held = check_allocate(choice->size);
	int result;

	memcpy(held, source, choice->size);
	result = choice_takes(choice, &counters, held);
	free(held);
	return result;
}

/* Against a look at each run, at and around both ends of it. */
static void test_sources(uint8_t family)
{
	enum { RUNS = 100 };
	struct source_run *runs = check_allocate(RUNS * sizeof(*runs));
	uint32_t size = family == 6 ? 16 : 4, count, i, end;
	int off;

	check_about(family == 6 ? "sources of IPv6" : "sources of IPv4");
	memset(runs, 0, RUNS * sizeof(*runs));
	for (i = 0; i < RUNS; i++) {
		memset(runs[i].first, 0x20, size);
		memset(runs[i].last, 0x20, size);
		runs[i].first[size - 2] = runs[i].last[size - 2] = (uint8_t)(2 * i);
		runs[i].first[size - 1] = 10;
		runs[i].last[size - 1] = (uint8_t)(10 + i);
	}
	for (count = 1; count <= RUNS; count += 33) {
		struct choice *choice = choice_new(0, 1, family, runs, count);
		uint64_t skipped = 0;

		memset(&counters, 0, sizeof(counters));
		for (i = 0; i < RUNS; i++)
			for (end = 0; end < 2; end++)
				for (off = -1; off <= 1; off++) {
					uint8_t source[16];
					int within;

					memcpy(source, end ? runs[i].last : runs[i].first, 16);
					source[size - 1] = (uint8_t)(source[size - 1] + off);
					within = i < count && source[size - 1] >= 10 && source[size - 1] <= 10 + i;
					CHECK_EQUAL(takes(choice, source), within);
					skipped += !within;
				}
		CHECK_EQUAL(counters.skipped.not_wanted, skipped);
		CHECK_EQUAL(counters.skipped.not_sampled, 0);
		free(choice);
	}
	free(runs);
}

static uint32_t sampled(const struct choice *choice, uint32_t packets)
{
	static const uint8_t source[16] = { 10, 1, 2, 3 };
	uint32_t sent = 0;

	while (packets--)
		sent += (uint32_t)takes(choice, source);
	return sent;
}

static void test_samples(void)
{
	struct choice *ten = choice_new(0, 10, 4, NULL, 0), *again = choice_new(0, 10, 4, NULL, 0);
	struct choice *three = choice_new(0, 3, 4, NULL, 0);

	check_about("samples");
	memset(&counters, 0, sizeof(counters));
	CHECK_EQUAL(sampled(ten, 1), 1); /* the first */
	CHECK_EQUAL(sampled(ten, 9), 0);
	CHECK_EQUAL(sampled(ten, 1), 1);
	CHECK_EQUAL(sampled(ten, 999), 99);
	CHECK_EQUAL(counters.skipped.not_sampled, 1010 - 101);

	/* The rule's next form, and the next worker, go on; another sample begins at once if it is over. */
	CHECK_EQUAL(sampled(ten, 5), 1);
	CHECK_EQUAL(sampled(again, 5), 0);
	CHECK_EQUAL(sampled(again, 8), 1);
	CHECK_EQUAL(sampled(three, 1), 1);
	CHECK_EQUAL(sampled(three, 5), 1);
	counters.turn = (uint64_t)-1; /* whatever a worker wrote there */
	CHECK_EQUAL(sampled(three, 3), 1);
	free(ten);
	free(again);
	free(three);
}

/* What is not of its sources is not part of the sample. */
static void test_both(void)
{
	static const struct source_run run = { { 10, 1, 0, 0 }, { 10, 1, 255, 255 } };
	static const uint8_t other[16] = { 10, 2, 2, 3 };
	struct choice *choice = choice_new(0, 2, 4, &run, 1);
	int i;

	check_about("a sample of some sources");
	memset(&counters, 0, sizeof(counters));
	for (i = 0; i < 10; i++) {
		CHECK_EQUAL(takes(choice, other), 0);
		CHECK_EQUAL(sampled(choice, 1), (uint32_t)(i % 2 == 0));
	}
	CHECK_EQUAL(counters.skipped.not_wanted, 10);
	CHECK_EQUAL(counters.skipped.not_sampled, 5);
	free(choice);
}

int main(void)
{
	test_sources(4);
	test_sources(6);
	test_samples();
	test_both();
	return check_result();
}
