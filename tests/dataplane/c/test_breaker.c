/* breaker.c: a loop is cut off, a sender that says the same again and again is not.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "breaker.h"

#include <string.h>

#include "check.h"

enum { SECOND = 1000 };

/* Relays `rate` datagrams a second from `from` to `to` (ms), `known` in a hundred of them known. In a test, a `loop`
 * falls silent. Returns how many tests there were. */
static uint32_t run(struct breaker *breaker, uint32_t from, uint32_t to, uint32_t rate, uint32_t known, int loop)
{
	struct breaker_test test = { 0 };
	uint64_t ns, step = 1000000000ULL / rate, number = 0;
	uint32_t tests = 0, found;

	for (ns = from * 1000000ULL; ns < to * 1000000ULL; ns += step) {
		uint32_t now = (uint32_t)(ns / 1000000);
		int is_known = number++ % 100 < known;

		if (test.began && ns > test.ends) {
			breaker_end(breaker, &test, now);
			memset(&test, 0, sizeof(test));
		}
		if (test.began) {
			if (is_known && !loop)
				breaker_came(&test, ns);
			continue;
		}
		if (is_known && breaker_is_cut(breaker, now))
			continue;
		found = breaker_note(breaker, is_known, now);
		if (found) {
			breaker_begin(&test, 1, found, ns);
			tests++;
		}
	}
	return tests;
}

static void test_senders(void)
{
	struct breaker breaker = { 0 };

	check_about("senders");
	CHECK_EQUAL(run(&breaker, 1000, 61 * SECOND, 900, 100, 0), 0); /* slow */
	CHECK_EQUAL(run(&breaker, 61 * SECOND, 62 * SECOND, 100000, 20, 0), 0); /* mostly new */
	CHECK_EQUAL(run(&breaker, 63 * SECOND, 180 * SECOND, 10000, 100, 0), 1); /* once, and then it is believed, */
	CHECK_EQUAL(run(&breaker, 180 * SECOND, 181 * SECOND, 30000, 100, 0), 0); /* up to four times of it */
	CHECK(run(&breaker, 181 * SECOND, 182 * SECOND, 100000, 100, 0) > 0);
	CHECK(!breaker_is_cut(&breaker, 182 * SECOND));
}

/* The second half of a test says how much comes without what is sent meanwhile. */
static void test_which_count(void)
{
	const uint64_t began = 1000000000, times[] = {
		began, began + BREAKER_HALF_NS, began + BREAKER_HALF_NS + 1, began + BREAKER_HOLD_NS, began + BREAKER_HOLD_NS + 1,
	};
	const uint32_t came[] = { 0, 0, 1, 2, 2 };
	struct breaker_test test;
	uint32_t i;

	check_about("which count");
	breaker_begin(&test, 1, 100, began);
	for (i = 0; i < sizeof(came) / sizeof(came[0]); i++) {
		breaker_came(&test, times[i]);
		CHECK_EQUAL(test.came, came[i]);
	}
}

static void test_loop(void)
{
	struct breaker breaker = { 0 };
	uint32_t lasts, now = 1000;

	check_about("loop");
	CHECK_EQUAL(run(&breaker, now, now + 800, 20000, 100, 1), BREAKER_TESTS);
	CHECK(breaker_is_cut(&breaker, now + 800));
	while (breaker.lasts < BREAKER_LONGEST) {
		lasts = breaker.lasts;
		now = breaker.cut + lasts;
		CHECK(breaker_is_cut(&breaker, now - 1));
		CHECK(!breaker_is_cut(&breaker, now));
		CHECK_EQUAL(run(&breaker, now, now + 800, 20000, 100, 1), BREAKER_TESTS);
		CHECK(breaker_is_cut(&breaker, now + 800));
		CHECK(breaker.lasts == 2 * lasts || breaker.lasts == BREAKER_LONGEST);
	}
	/* It has gone, and comes again after a long time. */
	now = breaker.cut + BREAKER_LONGEST + BREAKER_FORGET + 1;
	run(&breaker, now, now + 200, 100, 100, 0);
	CHECK_EQUAL(run(&breaker, now + 300, now + 1100, 20000, 100, 1), BREAKER_TESTS);
	CHECK_EQUAL(breaker.lasts, BREAKER_SHORTEST);
}

/* A sender that is believed, and then a loop in addition. */
static void test_loop_beside_a_sender(void)
{
	struct breaker breaker = { 0 };

	check_about("loop beside a sender");
	CHECK_EQUAL(run(&breaker, 1000, 2000, 2000, 100, 0), 1);
	CHECK_EQUAL(run(&breaker, 2000, 2800, 50000, 100, 1), BREAKER_TESTS);
	CHECK(breaker_is_cut(&breaker, 2800));
}

/* What a window of 50 ms has of known contents and others, and the longest gap: when it is reason enough for a test. */
static void test_the_least(void)
{
	static const struct {
		uint32_t known, other, gap, found;
	} cases[] = {
		{ BREAKER_FROM, 0, 1, BREAKER_FROM },
		{ BREAKER_FROM - 1, 0, 1, 0 },
		{ BREAKER_FROM, BREAKER_FROM + 1, 1, BREAKER_FROM }, /* half of all, rounded down */
		{ BREAKER_FROM, BREAKER_FROM + 2, 1, 0 },
		{ BREAKER_FROM, 0, BREAKER_GAP, BREAKER_FROM },
		{ BREAKER_FROM, 0, BREAKER_GAP + 1, 0 },
	};
	uint32_t i, j;

	check_about("the least");
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct breaker breaker = { 0 };
		uint32_t now = 1000, end = now + BREAKER_WINDOW;

		CHECK_EQUAL(breaker_note(&breaker, 1, now), 0); /* a window begins */
		for (j = 0; j < cases[i].other; j++)
			CHECK_EQUAL(breaker_note(&breaker, 0, now), 0);
		for (j = 1; j < cases[i].known; j++) {
			now += now + cases[i].gap < end - cases[i].gap ? cases[i].gap : 0;
			CHECK_EQUAL(breaker_note(&breaker, 1, now), 0);
		}
		breaker.last = end - cases[i].gap; /* the last gap is no longer than the others */
		CHECK_EQUAL(breaker_note(&breaker, 1, end), cases[i].found);
	}
}

/* One pause in a window is enough for no test, whatever follows it. */
static void test_a_pause(uint32_t pause, uint32_t found)
{
	struct breaker breaker = { 0 };
	uint32_t now = 1000, end = now + BREAKER_WINDOW, i;

	check_about("a pause");
	CHECK_EQUAL(breaker_note(&breaker, 1, now), 0); /* a window begins */
	for (now += pause; now < end; now++)
		CHECK_EQUAL(breaker_note(&breaker, 1, now), 0);
	for (i = end - 1000 - pause + 1; i < BREAKER_FROM; i++)
		CHECK_EQUAL(breaker_note(&breaker, 1, end - 1), 0);
	CHECK_EQUAL(breaker_note(&breaker, 1, end), found);
}

/* A window that was over long before says nothing. */
static void test_a_late_end(uint32_t late, uint32_t found)
{
	struct breaker breaker = { 0 };
	uint32_t begin = 1000, i;

	check_about("a late end");
	CHECK_EQUAL(breaker_note(&breaker, 1, begin), 0);
	for (i = 1; i < BREAKER_FROM; i++)
		CHECK_EQUAL(breaker_note(&breaker, 1, begin + 1), 0);
	breaker.last = begin + late - 1; /* no gap */
	CHECK_EQUAL(breaker_note(&breaker, 1, begin + late), found);
}

/* A sender that has no CPU most of the time looks silent between its bursts: it is not put to the test. */
static void test_bursts(void)
{
	struct breaker breaker = { 0 };
	uint32_t now, i, tests = 0;

	check_about("bursts");
	for (now = 1000; now < 61 * SECOND; now += 29)
		for (i = 0; i < 100; i++)
			tests += breaker_note(&breaker, 1, now) != 0;
	CHECK_EQUAL(tests, 0);
	CHECK(!breaker_is_cut(&breaker, now));
}

static void test_any_times(void)
{
	struct breaker breaker = { 0 };
	struct breaker_test test;
	uint64_t random = 3, step;

	check_about("any times");
	for (step = 0; step < 300000; step++) {
		uint32_t now = check_random(&random) % 3 ? (uint32_t)step : check_random(&random), found;

		breaker_is_cut(&breaker, now);
		found = breaker_note(&breaker, check_random(&random) % 4 > 0, now);
		if (!found)
			continue;
		breaker_begin(&test, 1, found, now * 1000000ULL);
		while (check_random(&random) % 3)
			breaker_came(&test, now * 1000000ULL + check_random(&random) % BREAKER_HOLD_NS);
		breaker_end(&breaker, &test, now);
		CHECK(breaker.lasts <= BREAKER_LONGEST);
	}
}

int main(void)
{
	test_which_count();
	test_senders();
	test_loop();
	test_loop_beside_a_sender();
	test_the_least();
	test_a_pause(BREAKER_GAP, BREAKER_FROM);
	test_a_pause(BREAKER_GAP + 1, 0);
	test_a_late_end(2 * BREAKER_WINDOW - 1, BREAKER_FROM);
	test_a_late_end(2 * BREAKER_WINDOW, 0);
	test_bursts();
	test_any_times();
	return check_result();
}
