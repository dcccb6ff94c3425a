/* meter.c: seconds, minutes, and the peak over 10 ms, whenever one looks.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "meter.h"

#include <string.h>

#include "check.h"

#define MS 1000000ULL
#define SECOND (1000 * MS)
#define START (1700000000 * SECOND) /* a whole minute, and so a whole five seconds */

static struct meter meter;
static struct traffic traffic;
static uint64_t began;

static void reset(void)
{
	memset(&meter, 0, sizeof(meter));
	memset(&traffic, 0, sizeof(traffic));
	began = 0;
}

static void pass(uint64_t now, uint64_t packets)
{
	meter_note(&meter, &traffic, &began, now);
	traffic.packets += packets;
	traffic.bytes += 100 * packets;
}

static struct rates at(uint64_t now)
{
	struct rates rates;

	meter_read(&meter, &traffic, now, &rates);
	return rates;
}

static void test_nothing(void)
{
	struct rates rates;

	check_about("nothing");
	reset();
	rates = at(START);
	CHECK_EQUAL(rates.second.packets, 0);
	CHECK_EQUAL(rates.minute.packets, 0);
	CHECK_EQUAL(rates.second_peak, 0);
	CHECK_EQUAL(rates.minute_peak, 0);
	CHECK_EQUAL(rates.minute_seconds, 60);
}

static void test_steady(void)
{
	struct rates rates;
	uint64_t ms;

	check_about("steady");
	reset();
	for (ms = 0; ms < 130 * 1000; ms++)
		pass(START + ms * MS, 2);
	rates = at(START + 130 * SECOND);
	CHECK_EQUAL(rates.second.packets, 2000);
	CHECK_EQUAL(rates.second.bytes, 200000);
	CHECK_EQUAL(rates.minute_seconds, 60);
	CHECK_EQUAL(rates.minute.packets, 60 * 2000);
	CHECK_EQUAL(rates.minute.bytes, 60 * 200000);
	CHECK_EQUAL(rates.second_peak, 20);
	CHECK_EQUAL(rates.minute_peak, 20);
	/* It ended: the second goes by, and later the minute. */
	CHECK_EQUAL(at(START + 130 * SECOND + 999 * MS).second.packets, 2000);
	CHECK_EQUAL(at(START + 131 * SECOND).second.packets, 0);
	CHECK_EQUAL(at(START + 131 * SECOND).second_peak, 0);
	CHECK_EQUAL(at(START + 131 * SECOND).minute.packets, 60 * 2000);
	CHECK_EQUAL(at(START + 131 * SECOND).minute_seconds, 61);
	CHECK_EQUAL(at(START + 160 * SECOND).minute.packets, 30 * 2000);
	CHECK_EQUAL(at(START + 160 * SECOND).minute_peak, 20);
	CHECK_EQUAL(at(START + 200 * SECOND).minute.packets, 0);
	CHECK_EQUAL(at(START + 200 * SECOND).minute_peak, 0);
	CHECK_EQUAL(at(START + 9999 * SECOND).minute.packets, 0);
}

/* A burst and silence: nobody calls the meter any more, and it shows it all the same. */
static void test_burst(void)
{
	struct rates rates;

	check_about("burst");
	reset();
	pass(START + 500 * MS, 400);
	pass(START + 503 * MS, 300);
	rates = at(START + 600 * MS);
	CHECK_EQUAL(rates.second_peak, 700);
	CHECK_EQUAL(rates.minute_peak, 700);
	CHECK_EQUAL(rates.second.packets, 0); /* that second is not over */
	rates = at(START + 1200 * MS);
	CHECK_EQUAL(rates.second.packets, 700);
	CHECK_EQUAL(rates.second_peak, 700);
	CHECK_EQUAL(rates.minute.packets, 700);
	CHECK_EQUAL(rates.minute_seconds, 61);
	rates = at(START + 2200 * MS);
	CHECK_EQUAL(rates.second.packets, 0);
	CHECK_EQUAL(rates.second_peak, 0);
	CHECK_EQUAL(rates.minute_peak, 700);
	/* Another burst, half an hour later, knows nothing of the first. */
	pass(START + 1800 * SECOND, 5);
	rates = at(START + 1801 * SECOND);
	CHECK_EQUAL(rates.second.packets, 5);
	CHECK_EQUAL(rates.minute.packets, 5);
	CHECK_EQUAL(rates.minute_peak, 5);
}

/* Two CPUs, and a clock that is set back and on: all is counted once, and the meter goes on. */
static void test_times_that_go_back(void)
{
	struct rates rates;

	check_about("times that go back");
	reset();
	pass(START + 20 * MS, 1);
	pass(START + 19 * MS, 1);
	pass(START + 21 * MS, 1);
	rates = at(START + 1000 * MS);
	CHECK_EQUAL(rates.second.packets, 3);
	CHECK_EQUAL(rates.second_peak, 3);
	pass(START - 3600 * SECOND, 7);
	pass(START - 3599 * SECOND, 1);
	rates = at(START - 3599 * SECOND);
	CHECK_EQUAL(rates.second.packets, 7);
	CHECK_EQUAL(rates.minute.packets, 7);
	pass(START + 7200 * SECOND, 9);
	CHECK_EQUAL(at(START + 7201 * SECOND).second.packets, 9);
}

/* A worker that follows another has no copy of when the window began. */
static void test_another_worker_goes_on(void)
{
	check_about("another worker");
	reset();
	pass(START + 1 * MS, 3);
	CHECK_EQUAL(began, START);
	began = 0;
	pass(START + 2 * MS, 4);
	CHECK_EQUAL(began, START); /* nothing is asked of the meter again in this window */
	CHECK_EQUAL(at(START + SECOND).second.packets, 7);
	CHECK_EQUAL(at(START + SECOND).second_peak, 7);
}

/* A worker that died while it wrote leaves an odd number: the next one makes it right. */
static void test_one_that_died_while_it_wrote(void)
{
	check_about("died while it wrote");
	reset();
	meter.changes = 7;
	pass(START + 1 * MS, 3);
	CHECK_EQUAL(meter.changes % 2, 0);
	CHECK_EQUAL(at(START + SECOND).second.packets, 3);
}

/* Every sum over any time, against one made the long way. */
static void test_chance(void)
{
	enum { WINDOWS = 20000 }; /* of 10 ms */
	static uint32_t counts[WINDOWS];
	uint64_t random = 7, window, now = START;
	uint32_t i;

	check_about("chance");
	reset();
	memset(counts, 0, sizeof(counts));
	for (i = 0; i < 200000; i++) {
		struct rates rates;
		uint64_t second, from, to, total = 0, peak = 0, last = 0;

		now += check_random(&random) % 1000 == 0 ? check_random(&random) % (3000 * MS) : check_random(&random) % MS;
		window = (now - START) / (10 * MS);
		if (window >= WINDOWS)
			break;
		pass(now, 1 + i % 3);
		counts[window] += 1 + i % 3;
		if (i % 97)
			continue;
		second = (now - START) / SECOND;
		if (second < 70)
			continue;
		rates = at(now);
		from = (second / 5 - 12) * 500;
		to = second * 100;
		for (window = from; window < to; window++) {
			total += counts[window];
			if (counts[window] > peak)
				peak = counts[window];
			if (window >= to - 100)
				last += counts[window];
		}
		CHECK_EQUAL(rates.minute_seconds, (to - from) / 100);
		CHECK_EQUAL(rates.second.packets, last);
		CHECK_EQUAL(rates.minute.packets, total);
		CHECK(rates.minute_peak >= peak);
	}
	CHECK(i > 1000);
}

/* One that was taken over writes what it likes: reading it comes to an end. */
static void test_garbage(void)
{
	uint64_t random = 9;
	uint32_t i, j;

	check_about("garbage");
	for (i = 0; i < 2000; i++) {
		for (j = 0; j < sizeof(meter) / sizeof(uint32_t); j++)
			((uint32_t *)(void *)&meter)[j] = check_random(&random);
		at(START + i * SECOND);
	}
	CHECK(i == 2000);
}

int main(void)
{
	test_nothing();
	test_steady();
	test_burst();
	test_times_that_go_back();
	test_another_worker_goes_on();
	test_one_that_died_while_it_wrote();
	test_chance();
	test_garbage();
	return check_result();
}
