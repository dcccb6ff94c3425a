/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "merge.h"

#include <stdlib.h>
#include <string.h>

#include "counters.h"
#include "moldudp.h"
#include "rtp.h"

enum { CHECK_TAIL = 16, RTP_KEY_AT = 2, RTP_KEY = 10, TIME_BITS = 40, TAG_BITS = 48, LEG_BITS = 4 };

/* A leg that is as far behind as can be noted. */
#define LEG_BEHIND ((1U << LEG_BITS) - 1)
#define WITHIN_US (MERGE_WITHIN_NS / 1000)
#define SURELY_US (MERGE_SURELY_NS / 1000)

_Static_assert(offsetof(struct segment, copies) % 64 == 0, "a set would be on three lines of the cache");

int merge_is_possible(const struct merge_settings *settings)
{
	return settings->by <= MERGE_CONTENT && settings->leg < MCRD_LEGS && settings->bytes <= 8 &&
	       (settings->by != MERGE_SEQUENCE || settings->bytes > 0) &&
	       (settings->delay == 0 || settings->by != MERGE_CONTENT);
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
static void look_at_time(struct merge_stream *stream, uint64_t now)
{
	uint64_t period = now / MERGE_WITHIN_NS;

	if (period <= stream->period && stream->period - period < 2)
		return;
	settle(stream, &stream->pending[period & 1]);
	if (period != stream->period + 1)
		settle(stream, &stream->pending[(period + 1) & 1]);
	stream->period = period;
}

static uint64_t hash_of(const struct merge_settings *settings, const struct guard *guard, const uint8_t *payload,
			uint32_t length, uint8_t *again)
{
	uint64_t about = settings->stream;
	struct rtp_packet rtp;
	struct mold_packet mold;

	*again = 0;
	if (settings->by == MERGE_RTP && rtp_parse(payload, length, &rtp))
		return guard_hash(guard, about + MERGE_RTP, payload + RTP_KEY_AT, RTP_KEY);
	if (settings->by == MERGE_SEQUENCE && length >= settings->offset && length - settings->offset >= settings->bytes)
		return guard_hash(guard, about + MERGE_SEQUENCE, payload + settings->offset, settings->bytes);
	if (settings->by == MERGE_MOLDUDP64 && mold_parse(payload, length, &mold) && mold.messages > 0)
		return guard_hash(guard, about + MERGE_MOLDUDP64, payload, MOLD_HEADER);
	*again = 1;
	return guard_hash(guard, about + MERGE_CONTENT, payload, length);
}

/* Tells contents apart that have one number. */
static uint16_t check_of(const struct guard *guard, const uint8_t *payload, uint32_t length)
{
	uint32_t tail = length < CHECK_TAIL ? length : CHECK_TAIL;

	return (uint16_t)(guard_hash(guard, length, payload + length - tail, tail) >> 48);
}

/* In us; below 0 where its frame came by another ring, or the clock was set back. */
static int64_t after(const struct merge_copy *copy, uint64_t now)
{
	return (int64_t)((now / 1000 - copy->time) << (64 - TIME_BITS)) >> (64 - TIME_BITS);
}

static uint64_t age_of(const struct merge_copy *copy, uint64_t now)
{
	int64_t age = after(copy, now);

	return (uint64_t)(age < 0 ? -age : age);
}

/* Where something new is remembered. */
static struct merge_copy *place_in(struct merge_copy *set, uint64_t now, struct merge_counters *counters)
{
	struct merge_copy *oldest = set;
	uint64_t age, most = 0;
	int i;

	for (i = 0; i < MERGE_WAYS && most < WITHIN_US; i++) {
		age = set[i].tag == 0 ? WITHIN_US : age_of(&set[i], now);
		if (age >= most) {
			oldest = &set[i];
			most = age;
		}
	}
	if (most < SURELY_US)
		count(&counters->forgotten, 1);
	return oldest;
}

/* NULL: it is not remembered. */
static struct merge_copy *find(struct merge_copy *set, uint64_t tag)
{
	int i;

	for (i = 0; i < MERGE_WAYS; i++)
		if (set[i].tag == tag)
			return &set[i];
	return NULL;
}

static void count_skew(struct merge_counters *counters, uint64_t micros)
{
	uint32_t place = micros ? 64 - (uint32_t)__builtin_clzll(micros) : 0;

	count(&counters->skews[place < MCRD_SKEWS ? place : MCRD_SKEWS - 1], 1);
	if (micros * 1000 > counters->skew_most)
		__atomic_store_n(&counters->skew_most, micros * 1000, __ATOMIC_RELAXED);
}

static uint32_t behind(const struct merge_copy *copy, uint32_t leg)
{
	return copy->behind >> (LEG_BITS * leg) & LEG_BEHIND;
}

/* The leg says it more often than any other does. */
static uint16_t say(const struct merge_copy *copy, uint32_t leg)
{
	uint32_t each, all = 0, less;

	for (each = 0; each < MCRD_LEGS; each++) {
		less = behind(copy, each);
		if (each != leg)
			all |= (less < MERGE_BEHIND ? less + 1 : less) << (LEG_BITS * each);
	}
	return (uint16_t)all;
}

/* `copy` is what it is remembered by from now on. */
static int passes(struct merge_stream *stream, struct merge_copy *copy, struct merge_copy known, uint32_t leg,
		  uint64_t now)
{
	known.behind = say(&known, leg);
	known.first = leg;
	known.shared = 0;
	known.period = stream->period;
	known.time = now / 1000;
	*copy = known;
	stream->pending[stream->period & 1].first[leg]++;
	count(&stream->legs[leg]->first, 1);
	return 1;
}

/* A copy of what another leg has brought. */
static int is_second(struct merge_stream *stream, struct merge_copy *copy, uint32_t leg, uint64_t now)
{
	struct merge_pending *pending = &stream->pending[copy->period & 1];
	uint32_t bit = 1U << leg;

	copy->behind -= 1U << (LEG_BITS * leg);
	count(&stream->legs[leg]->second, 1);
	count_skew(stream->legs[leg], after(copy, now) > 0 ? (uint64_t)after(copy, now) : 0);
	/* Once for each that passed. */
	if (((stream->period - copy->period) & 3) < 2 && !(copy->shared & bit)) {
		pending->second[leg]++;
		if (copy->shared == 0) {
			pending->shared[copy->first]++;
			if (stream->legs[copy->first])
				count(&stream->legs[copy->first]->shared, 1);
		}
		copy->shared |= bit;
	}
	return 0;
}

void merge_look(const struct merge_settings *settings, const struct merge_copy *copies, const struct guard *guard,
		const uint8_t *payload, uint32_t length, struct merge_name *name)
{
	const struct merge_copy *set;

	name->hash = hash_of(settings, guard, payload, length, &name->again);
	set = copies + name->hash % MERGE_SETS * MERGE_WAYS;
	__builtin_prefetch(set, 1);
	__builtin_prefetch(set + MERGE_WAYS / 2, 1);
	name->check = name->again ? 0 : check_of(guard, payload, length);
}

int merge_is_first(struct merge_stream *stream, uint32_t leg, struct merge_copy *copies, const struct merge_name *name,
		   int resumed, uint64_t now)
{
	struct merge_copy fresh = { .tag = name->hash >> (64 - TAG_BITS) | 1, .check = name->check };
	struct merge_copy *set = copies + name->hash % MERGE_SETS * MERGE_WAYS, *copy = find(set, fresh.tag);
	struct merge_counters *counters = stream->legs[leg];

	look_at_time(stream, now);
	count(&counters->received, 1);
	if (!copy)
		return passes(stream, place_in(set, now, counters), fresh, leg, now);
	if (age_of(copy, now) >= WITHIN_US) {
		if (behind(copy, leg) > 0 && copy->check == name->check && !name->again)
			count(&counters->late, 1);
		return passes(stream, copy, fresh, leg, now);
	}
	if (behind(copy, leg) > 0) {
		/* Another leg has said it more often. */
		if (copy->check != name->check)
			count(&counters->differs, 1);
		return is_second(stream, copy, leg, now);
	}
	if (name->again)
		return passes(stream, copy, *copy, leg, now);
	/* A worker that was killed had it, and may not have sent it: this is the same frame. */
	if (resumed && copy->first == leg && after(copy, now) == 0)
		return passes(stream, copy, fresh, leg, now);
	if (copy->check == name->check) {
		count(&counters->repeated, 1);
		return 0;
	}
	/* The number is used anew. */
	return passes(stream, copy, fresh, leg, now);
}

int merge_knows(const struct merge_settings *settings, struct merge_counters *counters, struct merge_copy *copies,
		const struct guard *guard, const uint8_t *payload, uint32_t length, uint64_t now)
{
	struct merge_copy fresh = { .first = settings->leg, .time = now / 1000 }, *set, *copy;
	struct merge_name name;

	if (settings->by == MERGE_NOTHING)
		return 0;
	merge_look(settings, copies, guard, payload, length, &name);
	if (name.again)
		return 0;
	fresh.tag = name.hash >> (64 - TAG_BITS) | 1;
	fresh.check = name.check;
	set = copies + name.hash % MERGE_SETS * MERGE_WAYS;
	copy = find(set, fresh.tag);
	if (copy && copy->check == name.check && copy->first != settings->leg && age_of(copy, now) < WITHIN_US)
		return 1;
	*(copy ? copy : place_in(set, now, counters)) = fresh;
	return 0;
}

void merge_forget(struct segment *segment)
{
	uint64_t first = segment->first_in_hand;
	uint32_t i;

	for (i = 0; first != 0 && i < MCRD_MERGE_COPIES; i++)
		if (after(&segment->copies[i], first) <= 0)
			segment->copies[i] = (struct merge_copy){ .tag = 0 };
	segment->first_in_hand = 0;
}
