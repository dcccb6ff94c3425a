/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sequence.h"

#include <string.h>

#include "counters.h"

#define SECOND_NS 1000000000ULL

struct sequence_kind sequence_kind(unsigned int bits)
{
	uint64_t half = 1ULL << (bits - 1);
	struct sequence_kind kind = {
		.mask = half | (half - 1),
		.far = half - 1 < SEQUENCE_FAR ? half - 1 : SEQUENCE_FAR,
		.near = half / 2 - 1 < SEQUENCE_NEAR ? (uint32_t)(half / 2 - 1) : SEQUENCE_NEAR,
		.window = half / 2 < SEQUENCE_WINDOW ? (uint32_t)(half / 2) : SEQUENCE_WINDOW,
	};

	return kind;
}

static void set(uint64_t *counter, uint64_t to)
{
	__atomic_store_n(counter, to, __ATOMIC_RELAXED);
}

void inspect_event(struct inspect_event *event, uint64_t number, uint64_t when)
{
	if (when / SECOND_NS == event->at / SECOND_NS)
		count(&event->count, number);
	else
		set(&event->count, number);
	set(&event->at, when);
}

void inspect_lose(struct inspect_counters *counters, uint64_t lost, uint64_t when)
{
	count(&counters->lost, lost);
	inspect_event(&counters->last_lost, lost, when);
}

void inspect_gap(struct inspect_counters *counters, uint64_t length)
{
	count(&counters->gaps, 1);
	if (length > counters->longest_gap)
		set(&counters->longest_gap, length);
}

static void lose_missing(struct sequence *sequence, uint32_t number, struct inspect_counters *counters)
{
	sequence->missing -= number;
	count(&counters->missing, -(uint64_t)number);
	inspect_lose(counters, number, sequence->gap_time);
}

void sequence_give_up(struct sequence *sequence, struct inspect_counters *counters)
{
	if (sequence->missing)
		lose_missing(sequence, sequence->missing, counters);
	memset(sequence->came, 0xff, sizeof(sequence->came));
}

static void begin_at(struct sequence *sequence, const struct sequence_kind *kind, uint64_t number,
		     struct inspect_counters *counters)
{
	sequence_give_up(sequence, counters);
	sequence->next = (number + 1) & kind->mask;
	sequence->begun = 1;
	sequence->has_stray = 0;
}

/* Empties `number` places from `first` on. Returns how many of them were empty before. */
static uint32_t empty(struct sequence *sequence, const struct sequence_kind *kind, uint64_t first, uint32_t number)
{
	uint32_t found = 0;

	while (number > 0) {
		uint32_t place = (uint32_t)(first & (kind->window - 1)), bit = place % 64;
		uint32_t here = 64 - bit < number ? 64 - bit : number;
		uint64_t bits = (here == 64 ? ~0ULL : (1ULL << here) - 1) << bit;
		uint64_t *word = &sequence->came[place / 64];

		found += (uint32_t)__builtin_popcountll(~*word & bits);
		*word &= ~bits;
		first += here;
		number -= here;
	}
	return found;
}

/* The number is `ahead` more than the next one. */
static void go_on(struct sequence *sequence, const struct sequence_kind *kind, uint64_t ahead, uint64_t now,
		  struct inspect_counters *counters)
{
	uint64_t number = (sequence->next + ahead) & kind->mask;
	uint32_t place = (uint32_t)(number & (kind->window - 1)), given_up, room;
	uint64_t *word = &sequence->came[place / 64], bit = 1ULL << place % 64;

	sequence->next = (number + 1) & kind->mask;
	if (ahead == 0) {
		if (!(*word & bit))
			lose_missing(sequence, 1, counters);
		*word |= bit;
		return;
	}
	room = ahead < kind->window ? (uint32_t)ahead + 1 : kind->window;
	given_up = empty(sequence, kind, number + 1 - room, room);
	*word |= bit;
	if (given_up)
		lose_missing(sequence, given_up, counters);
	inspect_gap(counters, ahead);
	sequence->gap_time = now;
	sequence->missing += room - 1;
	count(&counters->missing, room - 1);
	if (ahead >= kind->window) /* these have left the window already */
		inspect_lose(counters, ahead - (kind->window - 1), now);
}

/* In the window, `behind` the highest. */
static void fill(struct sequence *sequence, const struct sequence_kind *kind, uint64_t number,
		 struct inspect_counters *counters)
{
	uint32_t place = (uint32_t)(number & (kind->window - 1));
	uint64_t *word = &sequence->came[place / 64], bit = 1ULL << place % 64;

	if (*word & bit) {
		count(&counters->repeated, 1);
		return;
	}
	*word |= bit;
	sequence->missing--;
	count(&counters->missing, -1ULL);
	count(&counters->reordered, 1);
}

/* Two numbers agree that the sequence goes on at the stray one. */
static void jump(struct sequence *sequence, const struct sequence_kind *kind, uint64_t now,
		 struct inspect_counters *counters)
{
	uint64_t ahead = (sequence->stray - sequence->next) & kind->mask;

	if (ahead <= kind->far) {
		inspect_gap(counters, ahead);
		inspect_lose(counters, ahead, now);
	} else {
		count(&counters->resets, 1);
	}
	begin_at(sequence, kind, sequence->stray, counters);
}

static void note_stray(struct sequence *sequence, const struct sequence_kind *kind, uint64_t number, uint64_t now,
		       struct inspect_counters *counters)
{
	if (sequence->has_stray) {
		uint64_t after = (number - sequence->stray) & kind->mask;

		if (after == 0) {
			count(&counters->repeated, 1);
			return;
		}
		if (after <= kind->near) {
			jump(sequence, kind, now, counters);
			go_on(sequence, kind, after - 1, now, counters);
			return;
		}
		count(&counters->stray, 1);
	}
	sequence->stray = number;
	sequence->has_stray = 1;
}

void sequence_note(struct sequence *sequence, const struct sequence_kind *kind, uint64_t number, uint64_t now,
		   struct inspect_counters *counters)
{
	uint64_t ahead = (number - sequence->next) & kind->mask, behind = (sequence->next - 1 - number) & kind->mask;

	if (!sequence->begun) {
		begin_at(sequence, kind, number, counters);
		return;
	}
	if (sequence->missing && (int64_t)(now - sequence->gap_time) > (int64_t)SEQUENCE_PATIENCE_NS)
		sequence_give_up(sequence, counters);
	if (ahead > kind->near && behind >= kind->window) {
		note_stray(sequence, kind, number, now, counters);
		return;
	}
	if (sequence->has_stray) {
		sequence->has_stray = 0;
		count(&counters->stray, 1);
	}
	if (ahead <= kind->near)
		go_on(sequence, kind, ahead, now, counters);
	else
		fill(sequence, kind, number, counters);
}
