/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "order.h"

#include <stdlib.h>
#include <string.h>

struct order *order_new(uint64_t delay, uint32_t place)
{
	struct order *order = calloc(1, sizeof(*order));

	if (!order)
		return NULL;
	order->delay = delay;
	order->place = place;
	if (waiting_init(&order->waiting, WAITING_BYTES) == 0)
		return order;
	free(order);
	return NULL;
}

void order_free(struct order *order)
{
	if (!order)
		return;
	waiting_free(&order->waiting);
	free(order);
}

static uint32_t at(const struct order *order, uint64_t number)
{
	return (uint32_t)(number & (order->places - 1));
}

static int is_set(const uint64_t *bits, uint32_t place)
{
	return bits[place / 64] >> place % 64 & 1;
}

/* What became of numbers from this one on. */
static void note(struct order *order, uint64_t number, uint64_t count, int sent)
{
	while (count > 0) {
		uint32_t place = at(order, number), bit = place % 64;
		uint64_t here = 64 - bit < count ? 64 - bit : count;
		uint64_t bits = (here < 64 ? (1ULL << here) - 1 : UINT64_MAX) << bit;

		if (sent)
			order->sent[place / 64] |= bits;
		else
			order->sent[place / 64] &= ~bits;
		number += here;
		count -= here;
	}
}

/* The next number that is due is so much further. */
static void advance(struct order *order, uint64_t numbers, int sent)
{
	uint64_t noted = numbers < order->window ? numbers : order->window;

	note(order, order->due + numbers - noted, noted, sent);
	order->due = (order->due + numbers) & order->mask;
	order->gone += numbers;
	order->known = order->known + noted < order->window ? order->known + (uint32_t)noted : order->window;
}

/* Is it where the stream of the last stray goes on? */
static int follows_stray(const struct order *order, const struct order_place *place)
{
	const struct order_place *stray = &order->stray;
	uint64_t mask = UINT64_MAX >> (64 - place->bits), ahead = place->number - stray->number - stray->span;

	return stray->span > 0 && place->stream == stray->stream && place->bits == stray->bits &&
	       ((ahead + ORDER_NEAR) & mask) <= 2 * ORDER_NEAR;
}

static enum order_answer doubt(struct order *order, const struct order_place *place)
{
	if (follows_stray(order, place))
		return ORDER_ANEW;
	order->stray = *place;
	return ORDER_STRAY;
}

/* Is it from before the stream began, and was not waited for? */
static int is_early(const struct order *order, uint64_t behind, uint64_t now)
{
	return behind > order->gone && (int64_t)(now - order->began) < (int64_t)order->delay;
}

enum order_answer order_ask(struct order *order, const struct order_place *place, uint64_t now)
{
	uint64_t ahead = (place->number - order->due) & order->mask, behind = (order->due - place->number) & order->mask;

	if (!order->begun)
		return ORDER_ANEW;
	if (place->stream != order->stream)
		return doubt(order, place);
	if (ahead < order->window) {
		if (is_set(order->there, at(order, place->number)))
			return doubt(order, place);
		if (ahead >= ORDER_NEAR) {
			order->late = 0;
			return follows_stray(order, place) ? ORDER_ANEW : ORDER_WAITS;
		}
		order->stray.span = order->late = 0;
		if (ahead > 0)
			return ORDER_WAITS;
		order->in_turn = order->passed;
		return ORDER_NOW;
	}
	if (behind > order->known || is_set(order->sent, at(order, place->number)))
		return doubt(order, place);
	if (is_early(order, behind, now)) {
		note(order, place->number, place->span < behind ? place->span : behind, 1);
		return ORDER_STRAY;
	}
	if (++order->late < ORDER_LATE)
		return ORDER_LATE_ONE;
	order->stray.span = 0;
	return ORDER_ANEW;
}

void order_begin(struct order *order, const struct order_place *place, uint64_t now)
{
	const struct order_place *first = follows_stray(order, place) ? &order->stray : place;
	uint64_t half = 1ULL << (place->bits - 1);

	order->mask = UINT64_MAX >> (64 - place->bits);
	order->window = half < ORDER_WINDOW ? (uint32_t)half : ORDER_WINDOW;
	order->places = half < ORDER_WINDOW ? 2 * order->window : ORDER_WINDOW;
	order->stream = place->stream;
	order->due = order->highest = first->number;
	order->known = order->window / 4 < ORDER_BEFORE ? order->window / 4 : ORDER_BEFORE;
	order->late = 0;
	order->began = now;
	order->gone = 0;
	order->in_turn = order->passed = 0;
	order->begun = 1;
	memset(order->sent, 0, sizeof(order->sent));
	if (first != place)
		order_pass(order, first);
	order->stray.span = 0;
}

int order_is_behind(struct order *order, const struct order_place *place)
{
	uint64_t behind = (order->highest - place->number) & order->mask;

	if (behind > 0 && behind <= order->mask / 2)
		return 1;
	order->highest = place->number;
	return 0;
}

void order_pass(struct order *order, const struct order_place *place)
{
	advance(order, place->span, 1);
	order->passed = 1;
}

struct waiting_packet *order_hold(struct order *order, uint32_t rule, const struct order_place *place,
				  const uint8_t *payload, uint32_t length, uint64_t now)
{
	uint32_t here = at(order, place->number);
	struct waiting_packet *packet;

	if (!waiting_fits(&order->waiting, length))
		return NULL;
	packet = waiting_add(&order->waiting, &order->queue, rule, payload, length, now);
	packet->number = place->number;
	packet->span = place->span;
	order->packets[here] = packet;
	order->there[here / 64] |= 1ULL << here % 64;
	order->held++;
	if (!order->oldest)
		order->oldest = packet;
	return packet;
}

/* The place of the first that waits, from the number that is due on. One does. */
static uint32_t lowest(const struct order *order)
{
	uint32_t first = at(order, order->due), words = (order->places + 63) / 64, i;
	uint64_t bits = order->there[first / 64] >> first % 64 << first % 64;

	for (i = first / 64; !bits;) {
		i = (i + 1) % words;
		bits = order->there[i];
	}
	return i * 64 + (uint32_t)__builtin_ctzll(bits);
}

/* Does anything wait that is so far ahead of the number that is due? */
static int is_any(const struct order *order, uint64_t ahead, uint32_t count)
{
	uint64_t end = ahead + count < order->window ? ahead + count : order->window;

	for (; ahead < end; ahead++)
		if (is_set(order->there, at(order, order->due + ahead)))
			return 1;
	return 0;
}

/* Far from where the stream goes on, with nothing near it? Numbers that do not count by one are all far. */
static int is_stray(const struct order *order, const struct waiting_packet *packet)
{
	uint64_t ahead = (packet->number - order->due) & order->mask;

	return order->in_turn && ahead >= ORDER_NEAR && ahead < order->window &&
	       !is_any(order, ahead - ORDER_NEAR, ORDER_NEAR) && !is_any(order, ahead + packet->span, ORDER_NEAR);
}

static struct waiting_packet *leave(struct order *order, struct waiting_packet *packet)
{
	uint32_t here = at(order, packet->number);

	order->there[here / 64] &= ~(1ULL << here % 64);
	packet->left = 1;
	order->held--;
	return packet;
}

struct waiting_packet *order_next(struct order *order, int anyway)
{
	struct waiting_packet *packet;
	uint64_t ahead;

	if (order->held == 0 || (!anyway && !is_set(order->there, at(order, order->due))))
		return NULL;
	packet = order->packets[lowest(order)];
	if (anyway && is_stray(order, packet)) {
		order->in_turn = 0; /* another one is none: then all numbers are far from each other */
		return leave(order, packet);
	}
	ahead = (packet->number - order->due) & order->mask;
	/* Spans of numbers may overlap. */
	if (ahead < order->window) {
		order->in_turn = ahead == 0;
		advance(order, ahead, 0);
		advance(order, packet->span, 1);
	} else if (!anyway) {
		return NULL;
	}
	return leave(order, packet);
}

struct waiting_packet *order_give_up(struct order *order)
{
	struct waiting_packet *first = order->oldest;
	uint8_t bits = (uint8_t)(64 - __builtin_clzll(order->mask));

	if (!is_stray(order, first))
		return order_next(order, 1);
	order->stray = (struct order_place){ order->stream, first->number, first->span, bits };
	order->in_turn = 0;
	return leave(order, first);
}

const struct waiting_packet *order_first(struct order *order)
{
	while (order->oldest && order->oldest->left)
		order->oldest = order->oldest->next;
	return order->oldest;
}

void order_settle(struct order *order)
{
	order_first(order);
	while (order->queue.first && order->queue.first->left)
		waiting_end(&order->waiting, &order->queue);
}
