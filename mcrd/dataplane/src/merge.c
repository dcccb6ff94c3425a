/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "merge.h"

#include <stdlib.h>
#include <string.h>

#include "counters.h"
#include "moldudp.h"
#include "rtp.h"

enum { COUNT_MOST = 250, CHECK_TAIL = 16, RTP_KEY_AT = 2, RTP_KEY = 10 };

int merge_is_possible(const struct merge_settings *settings)
{
	return settings->by <= MERGE_CONTENT && settings->leg < MCRD_LEGS && settings->bytes <= 8 &&
	       (settings->by != MERGE_SEQUENCE || settings->bytes > 0);
}

struct merge_stream *merge_join(struct merge_stream **streams, const struct merge_settings *settings,
				struct merge_counters *counters)
{
	struct merge_stream *stream;

	for (stream = *streams; stream && stream->id != settings->stream; stream = stream->next)
		;
	if (!stream) {
		stream = calloc(1, sizeof(*stream));
		if (!stream)
			return NULL;
		stream->id = settings->stream;
		stream->next = *streams;
		*streams = stream;
	}
	stream->users++;
	stream->legs[settings->leg] = counters;
	return stream;
}

void merge_leave(struct merge_stream **streams, struct merge_stream *stream, const struct merge_counters *counters)
{
	struct merge_stream **at;
	uint32_t leg;

	if (--stream->users > 0) {
		for (leg = 0; leg < MCRD_LEGS; leg++)
			if (stream->legs[leg] == counters)
				stream->legs[leg] = NULL;
		return;
	}
	for (at = streams; *at != stream; at = &(*at)->next)
		;
	*at = stream->next;
	free(stream);
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0; /* what a worker before this one relayed is not pending here, and its copies are */
}

/* No copy comes any more of what is pending there. */
static void settle(struct merge_stream *stream, struct merge_pending *pending)
{
	uint64_t all = 0;
	uint32_t leg;

	for (leg = 0; leg < MCRD_LEGS; leg++)
		all += pending->first[leg];
	for (leg = 0; leg < MCRD_LEGS; leg++) {
		struct merge_counters *counters = stream->legs[leg];

		if (!counters)
			continue;
		count(&counters->lost, less(all - pending->first[leg], pending->second[leg]));
		count(&counters->only_here, less(pending->first[leg], pending->shared[leg]));
	}
	memset(pending, 0, sizeof(*pending));
}

/* What came two periods ago has had all its copies. Times of frames may go back a little. */
static uint64_t look_at_time(struct merge_stream *stream, uint64_t now)
{
	uint64_t period = now / MERGE_WITHIN_NS;

	if (period <= stream->period && stream->period - period < 2)
		return stream->period;
	settle(stream, &stream->pending[period & 1]);
	if (period != stream->period + 1)
		settle(stream, &stream->pending[(period + 1) & 1]);
	stream->period = period;
	return period;
}

/* What copies have in common, never 0; `again`: it may be said again, as a heartbeat is. */
static uint64_t tag_of(const struct merge_settings *settings, const struct guard *guard, const uint8_t *payload,
		       uint32_t length, int *again)
{
	uint64_t about = settings->stream;
	struct rtp_packet rtp;
	struct mold_packet mold;

	*again = 0;
	if (settings->by == MERGE_RTP && rtp_parse(payload, length, &rtp))
		return guard_hash(guard, about + MERGE_RTP, payload + RTP_KEY_AT, RTP_KEY) | 1;
	if (settings->by == MERGE_SEQUENCE && length >= settings->offset && length - settings->offset >= settings->bytes)
		return guard_hash(guard, about + MERGE_SEQUENCE, payload + settings->offset, settings->bytes) | 1;
	if (settings->by == MERGE_MOLDUDP64 && mold_parse(payload, length, &mold) && mold.messages > 0)
		return guard_hash(guard, about + MERGE_MOLDUDP64, payload, MOLD_HEADER) | 1;
	*again = 1;
	return guard_hash(guard, about + MERGE_CONTENT, payload, length) | 1;
}

/* Tells contents apart that have one number. */
static uint16_t check_of(const struct guard *guard, const uint8_t *payload, uint32_t length)
{
	uint32_t tail = length < CHECK_TAIL ? length : CHECK_TAIL;

	return (uint16_t)(guard_hash(guard, length, payload + length - tail, tail) >> 48);
}

static uint64_t age_of(const struct merge_copy *copy, uint64_t now)
{
	return now > copy->time ? now - copy->time : copy->time - now; /* the clock may have been set back */
}

/* Where it is remembered, or is to be. */
static struct merge_copy *find(struct merge_copy *copies, uint64_t tag, uint64_t now, struct merge_counters *counters)
{
	struct merge_copy *set = copies + (tag >> 32) % MERGE_SETS * MERGE_WAYS, *oldest = set;
	int i;

	for (i = 0; i < MERGE_WAYS; i++) {
		if (set[i].tag == tag)
			return &set[i];
		if (age_of(&set[i], now) > age_of(oldest, now))
			oldest = &set[i];
	}
	if (oldest->tag != 0 && age_of(oldest, now) < MERGE_SURELY_NS)
		count(&counters->forgotten, 1);
	oldest->tag = 0;
	return oldest;
}

static void count_skew(struct merge_counters *counters, uint64_t skew)
{
	uint64_t micros = skew / 1000;
	uint32_t place = micros ? 64 - (uint32_t)__builtin_clzll(micros) : 0;

	count(&counters->skews[place < MCRD_SKEWS ? place : MCRD_SKEWS - 1], 1);
	if (skew > counters->skew_most)
		__atomic_store_n(&counters->skew_most, skew, __ATOMIC_RELAXED);
}

/* The most that any leg has said of it. */
static uint8_t most_of(const struct merge_copy *copy)
{
	uint8_t most = 0;
	int i;

	for (i = 0; i < MCRD_LEGS; i++)
		most = copy->count[i] > most ? copy->count[i] : most;
	return most;
}

static int passes(struct merge_stream *stream, struct merge_copy *copy, uint8_t leg, uint64_t period, uint64_t now)
{
	uint8_t most = most_of(copy);
	int i;

	if (most >= COUNT_MOST)
		for (i = 0; i < MCRD_LEGS; i++)
			copy->count[i] = copy->count[i] > COUNT_MOST / 2 ? copy->count[i] - COUNT_MOST / 2 : 0;
	copy->count[leg]++;
	most = most_of(copy);
	for (i = 0; i < MCRD_LEGS; i++)
		if (copy->count[i] + MERGE_BEHIND < most)
			copy->count[i] = (uint8_t)(most - MERGE_BEHIND);
	copy->first = leg;
	copy->shared = 0;
	copy->period = (uint8_t)period;
	copy->time = now;
	stream->pending[period & 1].first[leg]++;
	count(&stream->legs[leg]->first, 1);
	return 1;
}

/* A copy of what another leg has brought. */
static int is_second(struct merge_stream *stream, struct merge_copy *copy, uint8_t leg, uint64_t now)
{
	struct merge_pending *pending = &stream->pending[copy->period & 1];
	uint8_t bit = (uint8_t)(1U << leg);

	copy->count[leg]++;
	count(&stream->legs[leg]->second, 1);
	count_skew(stream->legs[leg], now > copy->time ? now - copy->time : 0);
	/* Once for each that passed. */
	if ((uint8_t)(stream->period - copy->period) < 2 && !(copy->shared & bit)) {
		pending->second[leg]++;
		/* A worker before this one could write there. */
		pending->shared[copy->first % MCRD_LEGS] += copy->shared == 0;
		copy->shared |= bit;
	}
	return 0;
}

int merge_is_first(struct merge_stream *stream, const struct merge_settings *settings, struct merge_copy *copies,
		   const struct guard *guard, const uint8_t *payload, uint32_t length, uint64_t now)
{
	struct merge_counters *counters = stream->legs[settings->leg];
	uint64_t period = look_at_time(stream, now), tag;
	uint8_t leg = settings->leg;
	struct merge_copy *copy;
	uint16_t check;
	int again;

	tag = tag_of(settings, guard, payload, length, &again);
	check = again ? 0 : check_of(guard, payload, length);
	copy = find(copies, tag, now, counters);
	count(&counters->received, 1);
	if (copy->tag != tag || age_of(copy, now) >= MERGE_WITHIN_NS) {
		*copy = (struct merge_copy){ .tag = tag, .check = check };
		return passes(stream, copy, leg, period, now);
	}
	if (copy->count[leg] < most_of(copy)) {
		/* Another leg has said it more often. */
		if (copy->check != check)
			count(&counters->differs, 1);
		return is_second(stream, copy, leg, now);
	}
	if (again)
		return passes(stream, copy, leg, period, now);
	if (copy->check == check) {
		count(&counters->repeated, 1);
		return 0;
	}
	/* The number is used anew. */
	*copy = (struct merge_copy){ .tag = tag, .check = check };
	return passes(stream, copy, leg, period, now);
}
