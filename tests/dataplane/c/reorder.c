/* The order of a stream as a library for Python: datagrams in, with the times at which they come; what leaves out.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "order.h"

#include <stdlib.h>
#include <string.h>

enum { LATE = -1 };

struct reorder {
	struct order *order;
	int64_t *left;
	uint32_t count;
};

struct reorder *reorder_new(uint64_t delay)
{
	struct reorder *reorder = calloc(1, sizeof(*reorder));

	if (!reorder || !(reorder->order = order_new(delay, 0)))
		abort();
	return reorder;
}

void reorder_free(struct reorder *reorder)
{
	order_free(reorder->order);
	free(reorder);
}

static int note(struct reorder *reorder, const struct waiting_packet *packet)
{
	if (packet)
		memcpy(&reorder->left[reorder->count++], packet->payload, sizeof(int64_t));
	return packet != NULL;
}

static int leave(struct reorder *reorder, int anyway)
{
	return note(reorder, order_next(reorder->order, anyway));
}

/* The one that has waited longest, and what leaves with it. */
static void give_up(struct reorder *reorder)
{
	const struct waiting_packet *first = order_first(reorder->order);

	while (!first->left) {
		note(reorder, order_give_up(reorder->order));
		while (leave(reorder, 0))
			;
	}
}

/* What has waited for its time leaves. Returns how many; `left` gets what they are called by. */
uint32_t reorder_expire(struct reorder *reorder, uint64_t now, int64_t *left)
{
	const struct waiting_packet *first;

	reorder->left = left;
	reorder->count = 0;
	while ((first = order_first(reorder->order)) && now - first->since >= reorder->order->delay)
		give_up(reorder);
	order_settle(reorder->order);
	return reorder->count;
}

/* A datagram of `length` bytes that is called `name`. As reorder_expire(); LATE where it is dropped. */
uint32_t reorder_give(struct reorder *reorder, uint64_t stream, uint64_t number, uint32_t span, uint8_t bits,
		      int64_t name, uint32_t length, uint64_t now, int64_t *left)
{
	struct order_place place = { stream, number, span, bits };
	struct order *order = reorder->order;
	uint8_t *payload = calloc(1, length);
	int done = 0;

	if (!payload)
		abort();
	memcpy(payload, &name, sizeof(name));
	reorder->left = left;
	reorder->count = 0;
	while (!done) {
		done = 1;
		switch (order_ask(order, &place, now)) {
		case ORDER_ANEW:
			while (leave(reorder, 1))
				;
			order_begin(order, &place, now);
			done = 0;
			break;
		case ORDER_NOW:
			order_pass(order, &place);
			/* fallthrough */
		case ORDER_STRAY:
			reorder->left[reorder->count++] = name;
			while (leave(reorder, 0))
				;
			break;
		case ORDER_LATE_ONE:
			reorder->left[reorder->count++] = LATE;
			break;
		case ORDER_WAITS:
			if (!order_hold(order, 0, &place, payload, length, now)) {
				give_up(reorder);
				order_settle(order);
				done = 0;
			}
		}
	}
	order_settle(order);
	free(payload);
	return reorder->count;
}

uint32_t reorder_held(const struct reorder *reorder)
{
	return reorder->order->held;
}
