/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "switch.h"

#include <stdlib.h>

#include "merge.h"

int switch_is_possible(const struct switch_settings *settings)
{
	return merge_is_possible(&settings->copies) && settings->chosen <= MCRD_LEGS;
}

static struct switch_counters *leg_of(const struct switch_stream *stream, uint8_t number)
{
	return number ? stream->legs[number - 1] : NULL;
}

static uint64_t between(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a; /* the clock may have been set back */
}

static int is_silent(const struct switch_stream *stream, const struct switch_counters *counters, uint64_t now)
{
	return !counters || counters->last == 0 || between(now, counters->last) > stream->silence;
}

static void use(struct switch_stream *stream, uint8_t number, enum switch_reason why, uint64_t now)
{
	struct switch_counters *old = leg_of(stream, stream->used), *new = leg_of(stream, number);

	if (old)
		old->used = 0;
	if (new) {
		new->used = 1;
		new->switches += stream->used != 0 && stream->used != number;
		new->before = stream->used;
		new->silent = old && old->last ? between(now, old->last) : 0;
		new->why = why;
		__atomic_store_n(&new->since, now, __ATOMIC_RELEASE); /* whoever sees it finds the rest */
	}
	stream->used = number;
}

struct switch_stream *switch_join(struct switch_stream **streams, const struct switch_settings *settings,
				  struct switch_counters *counters, uint64_t now)
{
	uint8_t number = settings->copies.leg + 1;
	struct switch_counters *used;
	struct switch_stream *stream;

	for (stream = *streams; stream && stream->id != settings->copies.stream; stream = stream->next)
		;
	if (!stream) {
		stream = calloc(1, sizeof(*stream));
		if (!stream)
			return NULL;
		stream->id = settings->copies.stream;
		stream->next = *streams;
		*streams = stream;
	}
	stream->users++;
	stream->legs[number - 1] = counters;
	stream->silence = settings->silence;
	stream->back = settings->back;
	stream->chosen = settings->chosen;
	used = leg_of(stream, stream->used);
	if (counters->used && (!used || !used->used))
		stream->used = number; /* a worker before this one used it */
	else if (stream->used != number)
		counters->used = 0;
	else if (!counters->used && !stream->chosen) /* it was gone, and nothing came by another meanwhile */
		use(stream, number, SWITCH_FIRST, now);
	if (stream->chosen && (stream->used != stream->chosen || (number == stream->chosen && !counters->used)))
		use(stream, stream->chosen, SWITCH_CHOSEN, now);
	return stream;
}

void switch_leave(struct switch_stream **streams, struct switch_stream *stream, const struct switch_counters *counters)
{
	struct switch_stream **at;
	uint32_t leg;

	for (leg = 0; leg < MCRD_LEGS; leg++)
		if (stream->legs[leg] == counters)
			stream->legs[leg] = NULL;
	if (--stream->users > 0)
		return;
	for (at = streams; *at != stream; at = &(*at)->next)
		;
	*at = stream->next;
	free(stream);
}

/* Another leg takes over from the one in use, if it is to. */
static void look(struct switch_stream *stream, uint64_t now)
{
	const struct switch_counters *used = leg_of(stream, stream->used);
	int silent = is_silent(stream, used, now);
	uint8_t number;

	for (number = 1; number <= MCRD_LEGS; number++) {
		const struct switch_counters *leg = leg_of(stream, number);

		if (number == stream->used && !silent)
			return;
		if (number == stream->used || is_silent(stream, leg, now))
			continue;
		if (silent) {
			use(stream, number, stream->used == 0 ? SWITCH_FIRST : used ? SWITCH_SILENT : SWITCH_GONE, now);
			return;
		}
		if (stream->back && between(now, leg->steady) >= stream->back) {
			use(stream, number, SWITCH_STEADY, now);
			return;
		}
	}
}

int switch_passes(struct switch_stream *stream, const struct switch_counters *own, uint8_t leg, uint64_t now)
{
	struct switch_counters *counters = stream->legs[leg];

	if (counters != own)
		return 0; /* another rule is this leg by now: inputs change places */
	if (is_silent(stream, counters, now))
		counters->steady = now;
	counters->last = now;
	if (!stream->chosen && stream->used != leg + 1)
		look(stream, now);
	return stream->used == leg + 1;
}
