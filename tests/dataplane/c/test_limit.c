/* limit.c: what passes in any second, however it comes.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "limit.h"

#include "check.h"

enum { SECONDS = 4 };

#define SECOND 1000000000ULL
#define BEGIN (1700000000 * SECOND) /* the real-time clock, as frames have it */

static const uint32_t rates[] = { 1, 10, 150, 300, 1000, 12345, 300000 };

enum { RATES = sizeof(rates) / sizeof(rates[0]) };

static void about(const char *what, uint32_t rate)
{
	static char subject[64];

	snprintf(subject, sizeof(subject), "%s, %u a second", what, rate);
	check_about(subject);
}

static uint32_t most(uint32_t rate)
{
	return rate;
}

static uint32_t least(uint32_t rate)
{
	return rate - rate / 100 - 1;
}

/* What passes, as times in the order of their coming. */
struct passed {
	uint64_t *times;
	uint32_t count, room;
};

static void note(struct passed *passed, uint64_t now)
{
	if (passed->count == passed->room) {
		passed->room = passed->room ? 2 * passed->room : 1024;
		passed->times = realloc(passed->times, passed->room * sizeof(passed->times[0]));
		if (!passed->times)
			abort();
	}
	passed->times[passed->count++] = now;
}

/* The most that passed in any second, not in those of the clock alone. */
static uint32_t in_any_second(const struct passed *passed)
{
	uint32_t first = 0, last, found = 0;

	for (last = 0; last < passed->count; last++) {
		while (passed->times[last] - passed->times[first] >= SECOND)
			first++;
		if (last - first + 1 > found)
			found = last - first + 1;
	}
	return found;
}

/* `size` packets at once, every `gap` nanoseconds. */
static struct passed offer(uint32_t rate, uint32_t size, uint64_t gap, uint32_t seconds)
{
	struct passed passed = { 0 };
	struct limit limit;
	uint64_t now;
	uint32_t i;

	limit_init(&limit, rate);
	for (now = BEGIN; now < BEGIN + seconds * SECOND; now += gap)
		for (i = 0; i < size; i++)
			if (limit_pass(&limit, now))
				note(&passed, now);
	limit_free(&limit);
	return passed;
}

static void check_exact(uint32_t rate, struct passed passed, uint32_t seconds)
{
	uint32_t second, from = 0;

	CHECK(in_any_second(&passed) <= most(rate));
	for (second = 1; second <= seconds; second++) {
		uint32_t to = from;

		while (to < passed.count && passed.times[to] < BEGIN + second * SECOND)
			to++;
		CHECK(to - from >= least(rate));
		CHECK(to - from <= most(rate));
		from = to;
	}
	free(passed.times);
}

static void test_even_arrivals(void)
{
	uint32_t i;

	for (i = 0; i < RATES; i++) {
		uint32_t rate = rates[i];

		about("twice as many, evenly", rate);
		check_exact(rate, offer(rate, 1, SECOND / (2 * (uint64_t)rate), SECONDS), SECONDS);
		about("ten times as many, evenly", rate);
		check_exact(rate, offer(rate, 1, SECOND / (10 * (uint64_t)rate), SECONDS), SECONDS);
		about("a tenth more, evenly", rate);
		check_exact(rate, offer(rate, 1, SECOND * 10 / (11 * (uint64_t)rate), SECONDS), SECONDS);
	}
}

/* What a NIC hands on in one interrupt, and what a paced sender makes of a frame. */
static void test_bursts(void)
{
	uint32_t i;

	for (i = 0; i < RATES; i++) {
		uint32_t rate = rates[i];
		uint32_t thousandth = rate / 1000 ? rate / 1000 : 1;

		about("bursts of a millisecond", rate);
		check_exact(rate, offer(rate, 3 * thousandth, SECOND / 1000, SECONDS), SECONDS);
		if (rate < 1000)
			continue;
		about("bursts of four milliseconds", rate);
		check_exact(rate, offer(rate, 8 * thousandth, 4 * SECOND / 1000, SECONDS), SECONDS);
	}
}

/* Whatever comes: never more than the limit. */
static void test_random_arrivals(void)
{
	uint64_t random = 5;
	uint32_t i, round;

	for (i = 0; i < RATES; i++)
		for (round = 0; round < 8; round++) {
			struct passed passed = { 0 };
			uint64_t now = BEGIN, end = BEGIN + SECONDS * SECOND;
			struct limit limit;

			about("at random", rates[i]);
			limit_init(&limit, rates[i]);
			while (now < end) {
				uint32_t size = 1 + check_random(&random) % (1U << 2 * round);

				while (size--)
					if (limit_pass(&limit, now))
						note(&passed, now);
				now += check_random(&random) % (1U << (15 + 2 * round));
			}
			CHECK(in_any_second(&passed) <= most(rates[i]));
			free(passed.times);
			limit_free(&limit);
		}
}

static void test_what_is_below_the_limit_passes(void)
{
	uint32_t i;

	for (i = 0; i < RATES; i++) {
		uint32_t rate = rates[i];
		struct passed passed;

		about("evenly, a hundredth below", rate);
		passed = offer(rate, 1, SECOND * 100 / (99 * (uint64_t)rate), SECONDS);
		CHECK(passed.count >= SECONDS * (uint64_t)rate * 99 / 100);
		CHECK_EQUAL(passed.count, (SECONDS * SECOND - 1) / (SECOND * 100 / (99 * (uint64_t)rate)) + 1);
		free(passed.times);
	}
}

static void test_after_silence(void)
{
	uint32_t i, j;

	for (i = 0; i < RATES; i++) {
		struct passed passed = { 0 };
		struct limit limit;

		about("an hour of silence", rates[i]);
		limit_init(&limit, rates[i]);
		CHECK(limit_pass(&limit, BEGIN));
		for (j = 0; j < 2 * rates[i]; j++)
			if (limit_pass(&limit, BEGIN + 3600 * SECOND + j * (SECOND / (2 * (uint64_t)rates[i]))))
				note(&passed, BEGIN + j * (SECOND / (2 * (uint64_t)rates[i])));
		check_exact(rates[i], passed, 1);
		limit_free(&limit);
	}
}

static void test_no_limit(void)
{
	struct limit limit;
	uint64_t i;

	check_about("no limit");
	limit_init(&limit, 0);
	for (i = 0; i < 1000000; i++)
		CHECK(limit_pass(&limit, BEGIN + (i % 2 ? 0 : i)));
}

/* Steps back: those of NTP, and of a clock that was hours ahead. */
static void test_the_clock_steps_back(void)
{
	static const uint64_t steps[] = { 1, 1000000, SECOND / 2, SECOND, 3 * SECOND, 86400 * SECOND,
					  BEGIN };
	uint32_t i, j;

	for (i = 0; i < RATES; i++)
		for (j = 0; j < sizeof(steps) / sizeof(steps[0]); j++) {
			uint64_t gap = SECOND / (4 * (uint64_t)rates[i]), now = BEGIN, back;
			uint32_t passed = 0, allowed = 0;
			struct limit limit;

			about("a step back", rates[i]);
			limit_init(&limit, rates[i]);
			for (; now < BEGIN + SECOND; now += gap)
				passed += (uint32_t)limit_pass(&limit, now);
			CHECK(passed <= most(rates[i]));
			/* A step is no gift, */
			back = now - steps[j];
			for (now = back; now < back + SECOND; now += gap)
				allowed += (uint32_t)limit_pass(&limit, now);
			CHECK(allowed <= most(rates[i]));
			/* and costs no more than a second. */
			if (steps[j] > SECOND)
				CHECK(allowed >= least(rates[i]));
			allowed = 0;
			for (; now < back + 2 * SECOND; now += gap)
				allowed += (uint32_t)limit_pass(&limit, now);
			CHECK(allowed <= most(rates[i]));
			CHECK(allowed >= least(rates[i]));
			limit_free(&limit);
		}
}

/* Times that go to and fro, as of frames that several CPUs stamp, are no gift either. */
static void test_times_out_of_order(void)
{
	uint64_t random = 9;
	uint32_t i;

	for (i = 0; i < RATES; i++) {
		uint64_t gap = SECOND / (10 * (uint64_t)rates[i]), now;
		uint32_t passed = 0;
		struct limit limit;

		about("out of order", rates[i]);
		limit_init(&limit, rates[i]);
		for (now = BEGIN; now < BEGIN + SECOND; now += gap)
			passed += (uint32_t)limit_pass(&limit, now - check_random(&random) % 1000000);
		CHECK(passed <= most(rates[i]));
		CHECK(passed >= least(rates[i]));
		limit_free(&limit);
	}
}

int main(void)
{
	test_even_arrivals();
	test_bursts();
	test_random_arrivals();
	test_what_is_below_the_limit_passes();
	test_after_silence();
	test_no_limit();
	test_the_clock_steps_back();
	test_times_out_of_order();
	return check_result();
}
