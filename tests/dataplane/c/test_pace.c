/* pace.c: when the rate counts as high, and how long a busy worker sleeps.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "pace.h"

#include "check.h"

enum { US = 1000, MS = 1000 * US };

static uint64_t sent, runs; /* by the worker, so far */

/* Harvests every 50 us for some ms, at a rate in frames per second; a write has so many of them. Returns the state at
 * the end. */
static int run_of(struct pace *pace, uint64_t *now, uint64_t rate, uint32_t ms, uint64_t length)
{
	uint64_t until = *now + (uint64_t)ms * MS, due = 0;
	uint64_t sent_before = sent, runs_before = runs;
	int busy = pace->busy;

	while (*now < until) {
		uint64_t had = due / 1000000;

		*now += 50 * US;
		due += rate * 50;
		sent = sent_before + due / 1000000;
		runs = runs_before + due / 1000000 / length;
		busy = pace_note(pace, *now, (uint32_t)(due / 1000000 - had), sent, runs);
	}
	return busy;
}

static int run(struct pace *pace, uint64_t *now, uint64_t rate, uint32_t ms)
{
	return run_of(pace, now, rate, ms, 64);
}

static void test_states(void)
{
	struct pace pace = { 0 };
	uint64_t now = 1234567;

	check_about("states");
	CHECK_EQUAL(run(&pace, &now, 190000, 20), 0);
	CHECK_EQUAL(run(&pace, &now, 220000, 5), 1);
	/* What lies between keeps the state. */
	CHECK_EQUAL(run(&pace, &now, 150000, 20), 1);
	CHECK_EQUAL(run(&pace, &now, 130000, 5), 0);
	CHECK_EQUAL(run(&pace, &now, 150000, 20), 0);
	CHECK_EQUAL(run(&pace, &now, 1000000, 5), 1);
	CHECK_EQUAL(run(&pace, &now, 0, 5), 0);
	/* A burst after a long silence is no rate. */
	now += 1000ULL * MS;
	CHECK_EQUAL(pace_note(&pace, now, 64, sent + 64, runs + 1), 0);
	CHECK_EQUAL(run(&pace, &now, 0, 5), 0);
}

static void test_sleep(void)
{
	struct pace pace = { 0 };
	uint64_t now = 0, took;

	check_about("sleep");
	run(&pace, &now, 220000, 5);
	CHECK(pace_sleep(&pace, 1000, 1000) >= 130 * US && pace_sleep(&pace, 1000, 1000) <= 150 * US);
	run(&pace, &now, 150000, 5);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000), 100 * US);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000 + 40 * US), 60 * US);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000 + 80 * US), 80 * US);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000 + 390 * US), 10 * US);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000 + 400 * US), 0);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000 + 5 * MS), 0);
	run(&pace, &now, 250000, 5);
	CHECK(pace_sleep(&pace, 1000, 1000) >= 190 * US && pace_sleep(&pace, 1000, 1000) <= 210 * US);
	run(&pace, &now, 900000, 5);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000), 300 * US);
	for (took = 0; took < 1 * MS; took += 777) {
		uint64_t sleep = pace_sleep(&pace, 5, 5 + took);

		CHECK(sleep == 0 || sleep >= PACE_SHORTEST_NS);
		CHECK(sleep <= 300 * US);
	}
}

/* Twice the work's time, so that more of a flow goes in one write; but no longer than a millisecond. */
static void test_many_flows(void)
{
	struct pace pace = { 0 };
	uint64_t now = 0;

	check_about("many flows");
	run_of(&pace, &now, 400000, 5, 2);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000), 300 * US);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000 + 330 * US), 330 * US);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000 + 800 * US), 200 * US);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000 + 1 * MS), 0);
	run_of(&pace, &now, 400000, 50, 32);
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000 + 330 * US), 70 * US);
	run_of(&pace, &now, 400000, 5, 2); /* what was before that does not count */
	CHECK_EQUAL(pace_sleep(&pace, 1000, 1000 + 330 * US), 330 * US);
}

int main(void)
{
	test_states();
	test_sleep();
	test_many_flows();
	return check_result();
}
