/* order.c: a stream of which numbers are lost or late leaves in order, each once, and nothing that was not lost is
 * missing where the delay is long enough. tests/dataplane/test_order.py has the rest.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "order.h"

#include <string.h>

#include "check.h"

enum { COUNT = 20000, LATEST = 300, AT_ONCE = 8, RULE = 3 };

static uint64_t came[COUNT + LATEST][AT_ONCE];
static uint32_t came_count[COUNT + LATEST], early, late, sent;
static uint64_t began;
static uint8_t was_sent[COUNT];
static int64_t last;

static void send(uint64_t number)
{
	CHECK((int64_t)number > last);
	CHECK_EQUAL(was_sent[number], 0);
	was_sent[number] = 1;
	last = (int64_t)number;
	sent++;
}

static int leave(struct order *order, int anyway)
{
	const struct waiting_packet *packet = anyway ? order_give_up(order) : order_next(order, 0);
	uint64_t number;

	if (!packet)
		return 0;
	memcpy(&number, packet->payload, sizeof(number));
	CHECK_EQUAL(packet->length, sizeof(number) + number % 2000);
	CHECK_EQUAL(packet->rule, RULE);
	send(number);
	return 1;
}

static void give(struct order *order, uint64_t number, uint32_t bits, uint64_t now)
{
	struct order_place place = { 7, (number - 70000) & (UINT64_MAX >> (64 - bits)), 1, (uint8_t)bits };
	uint8_t payload[2008] = { 0 };

	memcpy(payload, &number, sizeof(number));
	switch (order_ask(order, &place, now)) {
	case ORDER_STRAY:
		CHECK(number < began);
		CHECK_EQUAL(was_sent[number], 0);
		was_sent[number] = 1;
		early++;
		break;
	case ORDER_ANEW:
		CHECK_EQUAL(sent, 0);
		began = number;
		order_begin(order, &place, now);
		CHECK_EQUAL(order_ask(order, &place, now), ORDER_NOW);
		/* fallthrough */
	case ORDER_NOW:
		order_pass(order, &place);
		send(number);
		while (leave(order, 0))
			;
		break;
	case ORDER_WAITS:
		CHECK(order_hold(order, RULE, &place, payload, (uint32_t)(sizeof(number) + number % 2000), now) != NULL);
		break;
	case ORDER_LATE_ONE:
		late++;
	}
}

/* Of numbers of so many bits. */
static void test_stream(uint32_t bits, uint64_t delay, uint64_t *random)
{
	struct order *order = order_new(delay, 0);
	const struct waiting_packet *first;
	uint64_t now, number;
	uint32_t i, lost = 0;

	memset(came_count, 0, sizeof(came_count));
	memset(was_sent, 0, sizeof(was_sent));
	last = -1;
	early = late = sent = 0;
	for (number = 0; number < COUNT; number++) {
		uint64_t at = number + (number % 3 ? 0 : check_random(random) % LATEST);

		if (check_random(random) % 50 == 0 || came_count[at] == AT_ONCE)
			lost++;
		else
			came[at][came_count[at]++] = number;
	}
	for (now = 1; now <= COUNT + LATEST + delay; now++) {
		for (i = 0; now <= COUNT + LATEST && i < came_count[now - 1]; i++)
			give(order, came[now - 1][i], bits, now);
		while ((first = order_first(order)) && now - first->since >= delay) {
			leave(order, 1);
			while (leave(order, 0))
				;
		}
		order_settle(order);
	}
	CHECK_EQUAL(order->held, 0);
	CHECK_EQUAL(order->waiting.used, 0);
	CHECK_EQUAL(sent + early + late + lost, COUNT);
	CHECK(delay > LATEST ? late == 0 : late > 0);
	order_free(order);
}

/* Of numbers that wrap: the highest one is the one after which others come. */
static void test_which_are_behind(uint32_t bits)
{
	static const struct {
		int64_t number;
		int behind;
	} cases[] = { { -3, 0 }, { 1, 0 }, { 0, 1 }, { -1, 1 }, { -3, 1 }, { 1, 0 }, { 2, 0 }, { 1, 1 } };
	const uint64_t mask = UINT64_MAX >> (64 - bits);
	struct order *order = order_new(20, 0);
	struct order_place place = { 7, (uint64_t)-3 & mask, 1, (uint8_t)bits };
	uint32_t i;

	check_about("behind");
	order_begin(order, &place, 1);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		place.number = (uint64_t)cases[i].number & mask;
		CHECK_EQUAL(order_is_behind(order, &place), cases[i].behind);
	}
	place.number = (2 - mask / 2) & mask;
	CHECK_EQUAL(order_is_behind(order, &place), 1);
	place.number = (2 - mask / 2 - 1) & mask; /* further behind than ahead */
	CHECK_EQUAL(order_is_behind(order, &place), 0);
	order_free(order);
}

int main(void)
{
	static const uint32_t widths[] = { 16, 24, 32, 64 };
	uint64_t random = 1;
	uint32_t i;

	for (i = 0; i < 4; i++) {
		check_about("patient");
		test_stream(widths[i], LATEST + 1, &random);
		check_about("hasty");
		test_stream(widths[i], 20, &random);
		test_which_are_behind(widths[i]);
	}
	return check_result();
}
