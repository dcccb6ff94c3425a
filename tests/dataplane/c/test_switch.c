/* switch.c: one leg at a time passes, by a clock that the test sets; and merge_knows(): nothing twice after a switch.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "switch.h"

#include <string.h>

#include "check.h"
#include "merge.h"

enum { LEGS = 3, LENGTH = 40 };

#define MS 1000000ULL
#define BEGIN (1700000000000ULL * MS)
#define SILENCE (200 * MS)
#define BACK (5000 * MS)

static struct switch_stream *streams, *stream;
static struct switch_counters counters[MCRD_LEGS];
static struct switch_settings settings;
static uint64_t clock_now;

static void join(uint8_t leg)
{
	settings.copies.leg = leg;
	stream = switch_join(&streams, &settings, &counters[leg], clock_now);
	CHECK_EQUAL(stream != NULL, 1);
}

static void leave(uint8_t leg)
{
	switch_leave(&streams, stream, &counters[leg]);
}

static void begin(uint64_t back)
{
	uint8_t leg;

	memset(counters, 0, sizeof(counters));
	settings = (struct switch_settings){ .copies = { .stream = 7 }, .silence = SILENCE, .back = back };
	clock_now = BEGIN;
	for (leg = 0; leg < LEGS; leg++)
		join(leg);
}

static void end(void)
{
	uint8_t leg;

	for (leg = 0; leg < LEGS; leg++)
		leave(leg);
	CHECK_EQUAL(streams == NULL, 1);
}

/* Each of the legs brings something every 50 ms, for so long; returns how much of it passed. */
static uint64_t flow(uint64_t ms, uint32_t legs)
{
	uint64_t passed = 0, at;
	uint8_t leg;

	for (at = 0; at < ms; at += 50) {
		clock_now += 50 * MS;
		for (leg = 0; leg < LEGS; leg++)
			if (legs & 1U << leg)
				passed += switch_passes(stream, &counters[leg], leg, clock_now);
	}
	return passed;
}

static void check_used(uint8_t leg, enum switch_reason why, uint64_t switches)
{
	uint8_t other;

	CHECK_EQUAL(stream->used, leg + 1);
	for (other = 0; other < LEGS; other++)
		CHECK_EQUAL(counters[other].used, other == leg);
	CHECK_EQUAL(counters[leg].why, why);
	CHECK_EQUAL(counters[leg].switches, switches);
}

static void test_over_and_back(void)
{
	check_about("over and back");
	begin(BACK);
	CHECK_EQUAL(flow(1000, 2), 20); /* the second is the first that flows */
	check_used(1, SWITCH_FIRST, 0);
	CHECK_EQUAL(flow(5000, 7), 100); /* the first one is steady for five seconds a moment later */
	check_used(1, SWITCH_FIRST, 0);
	CHECK_EQUAL(flow(50, 7), 1);
	check_used(0, SWITCH_STEADY, 1);
	CHECK_EQUAL(counters[0].before, 2);
	CHECK_EQUAL(flow(200, 6), 0);
	CHECK_EQUAL(flow(50, 6), 1); /* 250 ms after the last of the first: the second, not the third */
	check_used(1, SWITCH_SILENT, 1);
	CHECK_EQUAL(counters[1].silent, 250 * MS);
	/* It is there again, but not steady. */
	for (int turn = 0; turn < 10; turn++) {
		CHECK_EQUAL(flow(2000, 3), 40);
		CHECK_EQUAL(flow(300, 2), 6);
	}
	check_used(1, SWITCH_SILENT, 1);
	/* All but the third fall silent, then all: nothing changes until something comes. */
	CHECK_EQUAL(flow(1000, 4), 16);
	check_used(2, SWITCH_SILENT, 1);
	clock_now += 3600 * 1000 * MS;
	CHECK_EQUAL(flow(50, 4), 1);
	check_used(2, SWITCH_SILENT, 1);
	end();
}

static void test_never_back(void)
{
	check_about("never back");
	begin(0);
	CHECK_EQUAL(flow(1000, 1), 20);
	CHECK_EQUAL(flow(1000, 2), 16);
	CHECK_EQUAL(flow(3600 * 1000, 3), 20 * 3600);
	check_used(1, SWITCH_SILENT, 1);
	CHECK_EQUAL(flow(1000, 1), 16); /* it is silent now: over it goes */
	check_used(0, SWITCH_SILENT, 1);
	end();
}

static void choose(uint8_t number)
{
	uint8_t leg;

	settings.chosen = number;
	for (leg = 0; leg < LEGS; leg++) { /* as a rule that is replaced */
		leave(leg);
		join(leg);
	}
}

static void test_by_hand(void)
{
	check_about("by hand");
	begin(BACK);
	CHECK_EQUAL(flow(1000, 7), 20);
	choose(3);
	check_used(2, SWITCH_CHOSEN, 1);
	CHECK_EQUAL(flow(10000, 7), 200);
	CHECK_EQUAL(flow(10000, 3), 0); /* also while it is silent */
	check_used(2, SWITCH_CHOSEN, 1);
	choose(3);
	check_used(2, SWITCH_CHOSEN, 1); /* it is no switch */
	choose(0);
	CHECK_EQUAL(flow(50, 7), 1);
	check_used(0, SWITCH_SILENT, 1);
	/* One that is not there: nothing passes until it comes. */
	choose(2);
	leave(1);
	memset(&counters[1], 0, sizeof(counters[1]));
	CHECK_EQUAL(flow(1000, 5), 0);
	join(1);
	check_used(1, SWITCH_CHOSEN, 0);
	CHECK_EQUAL(flow(1000, 7), 20);
	end();
}

static void test_a_leg_goes(void)
{
	check_about("a leg goes");
	begin(BACK);
	CHECK_EQUAL(flow(1000, 7), 20);
	leave(0);
	memset(&counters[0], 0, sizeof(counters[0]));
	CHECK_EQUAL(flow(50, 6), 1); /* nobody waits for it */
	check_used(1, SWITCH_GONE, 1);
	join(0);
	CHECK_EQUAL(flow(5050, 7), 101);
	check_used(0, SWITCH_STEADY, 1);
	leave(0);
	memset(&counters[0], 0, sizeof(counters[0]));
	join(0);
	check_used(0, SWITCH_FIRST, 0); /* nothing has come by another yet */
	end();
}

static void test_the_next_worker(void)
{
	uint8_t leg;

	check_about("the next worker");
	begin(BACK);
	CHECK_EQUAL(flow(1000, 2), 20);
	CHECK_EQUAL(flow(3000, 7), 60);
	streams = NULL; /* killed */
	free(stream);
	for (leg = 0; leg < LEGS; leg++)
		join(leg);
	check_used(1, SWITCH_FIRST, 0);
	CHECK_EQUAL(flow(2000, 7), 40);
	check_used(1, SWITCH_FIRST, 0);
	CHECK_EQUAL(flow(50, 7), 1); /* it knows since when it is steady */
	check_used(0, SWITCH_STEADY, 1);
	end();
}

static void test_a_clock_that_is_set(void)
{
	check_about("a clock that is set");
	begin(BACK);
	CHECK_EQUAL(flow(1000, 3), 20);
	clock_now -= 3600 * 1000 * MS;
	CHECK_EQUAL(flow(1000, 3), 20);
	clock_now += 7200 * 1000 * MS;
	CHECK_EQUAL(flow(1000, 3), 20);
	CHECK_EQUAL(flow(50, 2) + flow(50, 3), 1);
	check_used(0, SWITCH_FIRST, 0);
	end();
}

/* Whatever comes, what passes is of the leg in use, and that is one of those that flow, or nothing else does. */
static void test_whatever_comes(uint64_t random)
{
	uint64_t last[LEGS] = { 0 };
	int i;

	check_about("whatever comes");
	begin(BACK);
	for (i = 0; i < 200000; i++) {
		uint8_t leg = (uint8_t)(check_random(&random) % LEGS), used;

		clock_now += check_random(&random) % (check_random(&random) % 50 ? 40 : 3000) * MS;
		last[leg] = clock_now;
		CHECK_EQUAL(switch_passes(stream, &counters[leg], leg, clock_now), counters[leg].used);
		used = (uint8_t)(stream->used - 1);
		CHECK_EQUAL(counters[0].used + counters[1].used + counters[2].used, 1);
		CHECK_EQUAL(used < LEGS && clock_now - last[used] <= SILENCE, 1);
	}
	end();
}

static struct guard_memory *memory;
static struct merge_copy *copies;

static int knows(uint8_t by, uint8_t leg, uint16_t number, uint8_t content, uint64_t ms)
{
	struct merge_settings about = { .stream = 7, .by = by, .leg = leg };
	struct merge_counters merged = { 0 };
	uint8_t payload[LENGTH] = { 0x80, 33, (uint8_t)(number >> 8), (uint8_t)number }, *held = check_allocate(LENGTH);
	struct guard guard;
	int found;

	payload[LENGTH - 1] = content;
	memcpy(held, payload, LENGTH);
	guard_init(&guard, memory);
	found = merge_knows(&about, &merged, copies, &guard, held, LENGTH, BEGIN + ms * MS);
	CHECK_EQUAL(merged.forgotten, 0);
	free(held);
	return found;
}

static void test_nothing_twice(void)
{
	uint64_t random = 5;
	uint16_t number;

	check_about("nothing twice");
	memory = check_allocate(sizeof(*memory));
	memset(memory, 0, sizeof(*memory));
	for (number = 0; number < MCRD_GUARD_SEEDS; number++)
		memory->seed[number] = (uint64_t)check_random(&random) << 32 | check_random(&random);
	copies = check_allocate(MCRD_MERGE_COPIES * sizeof(*copies));
	memset(copies, 0, MCRD_MERGE_COPIES * sizeof(*copies));
	for (number = 65500; number != 100; number++)
		CHECK_EQUAL(knows(MERGE_RTP, 0, number, 1, 0), 0);
	CHECK_EQUAL(knows(MERGE_RTP, 0, 99, 1, 1), 0); /* a leg says it again: that is the sender's matter */
	for (number = 65500; number != 100; number++)
		CHECK_EQUAL(knows(MERGE_RTP, 1, number, 1, 500), 1);
	CHECK_EQUAL(knows(MERGE_RTP, 1, 100, 1, 500), 0);
	CHECK_EQUAL(knows(MERGE_RTP, 0, 100, 1, 600), 1); /* back again */
	CHECK_EQUAL(knows(MERGE_RTP, 1, 50, 2, 600), 0); /* another content */
	CHECK_EQUAL(knows(MERGE_RTP, 1, 60, 1, 2600), 0); /* long ago */
	CHECK_EQUAL(knows(MERGE_NOTHING, 0, 7, 1, 3000), 0); /* nothing tells */
	CHECK_EQUAL(knows(MERGE_NOTHING, 1, 7, 1, 3000), 0);
	free(copies);
	free(memory);
}

int main(void)
{
	test_over_and_back();
	test_never_back();
	test_by_hand();
	test_a_leg_goes();
	test_the_next_worker();
	test_a_clock_that_is_set();
	test_whatever_comes(3);
	test_nothing_twice();
	return check_result();
}
