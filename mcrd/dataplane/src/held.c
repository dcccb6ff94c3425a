/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "held.h"

#include <errno.h>

#include "counters.h"
#include "kept.h"
#include "moldudp.h"
#include "order.h"
#include "rtp.h"

_Static_assert(MCRD_ORDERED_STREAMS <= 64, "a bit of `holding` for each");

int held_begin(struct worker *worker, struct merge_stream *stream, uint64_t delay)
{
	uint32_t place = 0;

	if (stream->order && delay) {
		stream->order->delay = delay;
		return 0;
	}
	held_end(worker, stream);
	if (!delay)
		return 0;
	while (place < MCRD_ORDERED_STREAMS && worker->orders[place])
		place++;
	if (place == MCRD_ORDERED_STREAMS)
		return -ENOSPC;
	stream->order = worker->orders[place] = order_new(delay, place);
	worker->ordered += stream->order != NULL;
	return stream->order ? 0 : -ENOMEM;
}

void held_end(struct worker *worker, struct merge_stream *stream)
{
	if (!stream->order)
		return;
	worker->ordered--;
	worker->orders[stream->order->place] = NULL;
	worker->holding &= ~(1ULL << stream->order->place);
	order_free(stream->order);
	stream->order = NULL;
}

/* The first that holds something, of those from this place on; NULL: none. */
static struct order *holder(const struct worker *worker, uint32_t place)
{
	uint64_t left = place < 64 ? worker->holding >> place << place : 0;

	return left ? worker->orders[__builtin_ctzll(left)] : NULL;
}

static void count_late(struct interface_counters *here, struct rule_counters *counters, uint64_t datagrams)
{
	count(&here->dropped[DROP_TOO_LATE], datagrams);
	count(&counters->too_late, datagrams);
}

void held_count_lost(struct worker *worker, const struct rule *rule)
{
	struct merge_counters *counters = &worker->segment->merges[rule->slot];

	count_late(&worker->segment->interfaces[rule->match.interface], rule->counters, counters->held);
	count(&counters->held, -counters->held);
}

static uint64_t number_at(const uint8_t *data, uint32_t bytes, int little)
{
	uint64_t number = 0;
	uint32_t i;

	for (i = 0; i < bytes; i++)
		number = number << 8 | data[little ? bytes - 1 - i : i];
	return number;
}

/* Where it stands; 0: it has no number. */
static int find_place(const struct merge_settings *settings, const struct guard *guard, const uint8_t *payload,
		      uint32_t length, struct order_place *place)
{
	struct rtp_packet rtp;
	struct mold_packet mold;

	if (settings->by == MERGE_RTP && rtp_parse(payload, length, &rtp)) {
		*place = (struct order_place){ rtp.ssrc, rtp.sequence, 1, 16 };
		return 1;
	}
	if (settings->by == MERGE_SEQUENCE && length >= settings->offset && length - settings->offset >= settings->bytes) {
		*place = (struct order_place){
			0, number_at(payload + settings->offset, settings->bytes, settings->little), 1,
			(uint8_t)(8 * settings->bytes)
		};
		return 1;
	}
	if (settings->by == MERGE_MOLDUDP64 && mold_parse(payload, length, &mold) && mold.messages > 0) {
		*place = (struct order_place){ guard_hash(guard, 0, mold.session, MOLD_SESSION), mold.first, mold.messages, 64 };
		return 1;
	}
	return 0;
}

static int send_one(struct worker *worker, const struct waiting_packet *packet)
{
	struct rule *rule = worker->rules.by_slot[packet->rule];

	return kept_send(worker, rule, &worker->segment->merges[rule->slot].held, packet->skipping, packet->payload,
			 packet->length);
}

static int send_held(struct worker *worker, struct order *order, int all)
{
	const struct waiting_packet *packet;
	int result = 0;

	while (result == 0 && (packet = order_next(order, all)))
		result = send_one(worker, packet);
	return result;
}

int held_send_due(struct worker *worker, struct order *order)
{
	return send_held(worker, order, 0);
}

/* Writes what has left. */
static int settle(struct worker *worker, struct order *order)
{
	int result = egress_flush(&worker->egress, worker_complete, worker);

	order_settle(order);
	if (!order->queue.first)
		worker->holding &= ~(1ULL << order->place);
	return result;
}

/* What waits longest leaves, and all before it. */
static int send_first(struct worker *worker, struct order *order)
{
	const struct waiting_packet *first = order_first(order);
	int result = 0;

	while (result == 0 && !first->left) {
		result = send_one(worker, order_give_up(order));
		if (result == 0)
			result = held_send_due(worker, order);
	}
	return result;
}

static int make_room(struct worker *worker, struct order *order)
{
	const struct waiting_packet *first = order_first(order);
	int result;

	if (first && order->queue.first == first) {
		count(&worker->segment->merges[first->rule].hurried, 1);
		result = send_first(worker, order);
		if (result < 0)
			return result;
	}
	return settle(worker, order);
}

int held_take(struct worker *worker, struct interface_counters *here, struct rule *rule, const struct packet *packet,
	      const uint8_t *payload, uint32_t length, uint64_t now)
{
	struct merge_counters *counters = &worker->segment->merges[rule->slot];
	struct order *order = rule->merge->order;
	struct waiting_packet *held = NULL;
	struct order_place place;
	int result;

	if (!find_place(&rule->match.merge, &worker->guard, payload, length, &place))
		return 0;
	while (!held) {
		switch (order_ask(order, &place, now)) {
		case ORDER_ANEW:
			result = send_held(worker, order, 1);
			if (result < 0)
				return result;
			order_begin(order, &place, now);
			continue;
		case ORDER_STRAY:
			return 0;
		case ORDER_NOW:
			count(&counters->reordered, order_is_behind(order, &place));
			order_pass(order, &place);
			return 0;
		case ORDER_LATE_ONE:
			count_late(here, rule->counters, 1);
			return 1;
		case ORDER_WAITS:
			held = order_hold(order, rule->slot, &place, payload, length, now);
			result = held ? 0 : make_room(worker, order);
			if (result < 0)
				return result;
		}
	}
	worker->holding |= 1ULL << order->place;
	count(&counters->held, 1);
	count(&counters->reordered, order_is_behind(order, &place));
	held->skipping = kept_choose(rule, packet->source);
	return 1;
}

/* For how long it has to wait yet; 0: no longer. The clock may have been set. */
static uint64_t left_of(const struct order *order, const struct waiting_packet *first, uint64_t now)
{
	uint64_t waited = now - first->since;

	if (now < first->since)
		return first->since - now <= order->delay ? first->since + order->delay - now : 0;
	return waited < order->delay ? order->delay - waited : 0;
}

int held_expire(struct worker *worker, int more, uint64_t now)
{
	struct order *order;
	int result = 0;

	if (!worker->begun || worker->test.held)
		return 0;
	if (more)
		now = worker->looked;
	worker->egress.time = now;
	for (order = holder(worker, 0); result == 0 && order; order = holder(worker, order->place + 1)) {
		const struct waiting_packet *first;

		while (result == 0 && (first = order_first(order)) && left_of(order, first, now) == 0)
			result = send_first(worker, order);
		if (result == 0 && order->queue.first && order->queue.first->left)
			result = settle(worker, order);
	}
	return result;
}

uint64_t held_sleep(const struct worker *worker, uint64_t other)
{
	uint64_t now, least = other;
	struct order *order;

	if (!worker->begun || !worker->holding)
		return other;

	now = pace_real_now();
	for (order = holder(worker, 0); order; order = holder(worker, order->place + 1)) {
		const struct waiting_packet *first = order_first(order);
		uint64_t left = first ? left_of(order, first, now) + 1 : 0;

		if (left && (least == 0 || left < least))
			least = left;
	}
	return least;
}

static int send_all_of(struct worker *worker, struct order *order)
{
	int result;

	worker->egress.time = pace_real_now();
	result = send_held(worker, order, 1);
	return result < 0 ? result : settle(worker, order);
}

int held_send_of(struct worker *worker, uint32_t slot)
{
	const struct rule *rule = worker->rules.by_slot[slot];

	return rule && rule->merge && rule->merge->order ? send_all_of(worker, rule->merge->order) : 0;
}

int held_send_all(struct worker *worker)
{
	struct order *order;
	int result = 0;

	for (order = holder(worker, 0); result == 0 && order; order = holder(worker, order->place + 1))
		result = send_all_of(worker, order);
	return result;
}
