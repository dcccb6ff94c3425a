/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "moldudp.h"

#include <string.h>

#include "counters.h"

enum { END_OF_SESSION = 0xffff, LOOK = 8 /* messages whose lengths are looked at */ };

int mold_parse(const uint8_t *data, uint32_t length, struct mold_packet *packet)
{
	uint64_t first = 0;
	uint32_t i;

	if (length < MOLD_HEADER)
		return 0;
	for (i = MOLD_SESSION; i < MOLD_SESSION + 8; i++)
		first = first << 8 | data[i];
	packet->session = data;
	packet->first = first;
	packet->messages = (uint32_t)(data[18] << 8 | data[19]);
	if (packet->messages == END_OF_SESSION)
		packet->messages = 0;
	/* Each message has two bytes of length. */
	return length >= MOLD_HEADER + 2 * packet->messages;
}

int mold_is(const uint8_t *data, uint32_t length)
{
	struct mold_packet packet;
	uint32_t at = MOLD_HEADER, i;

	if (!mold_parse(data, length, &packet))
		return 0;
	for (i = 0; i < MOLD_SESSION; i++)
		if (data[i] < ' ' || data[i] > '~')
			return 0;
	for (i = 0; i < packet.messages && i < LOOK; i++) {
		if (at + 2 > length)
			return 0;
		at += 2 + (uint32_t)(data[at] << 8 | data[at + 1]);
		if (at > length)
			return 0;
	}
	return i < packet.messages || at == length;
}

static void lose(struct mold *mold, uint64_t number, struct inspect_counters *counters)
{
	mold->missing -= number;
	count(&counters->missing, -number);
	inspect_lose(counters, number, mold->gap_time);
}

void mold_give_up(struct mold *mold, struct inspect_counters *counters)
{
	if (mold->missing)
		lose(mold, mold->missing, counters);
	mold->gap_count = 0;
}

static void remove_gap(struct mold *mold, uint32_t which)
{
	mold->gap_count--;
	memmove(&mold->gaps[which], &mold->gaps[which + 1], (mold->gap_count - which) * sizeof(mold->gaps[0]));
}

/* All of them are missing already. */
static void add_gap(struct mold *mold, uint64_t from, uint64_t to, struct inspect_counters *counters)
{
	if (mold->gap_count == MOLD_GAPS) {
		lose(mold, mold->gaps[0].to - mold->gaps[0].from, counters);
		remove_gap(mold, 0);
	}
	mold->gaps[mold->gap_count++] = (struct mold_gap){ from, to };
}

/* Messages of gaps come late. Returns how many did. */
static uint64_t fill(struct mold *mold, uint64_t from, uint64_t to, struct inspect_counters *counters)
{
	uint64_t found = 0;
	uint32_t i = 0;

	while (i < mold->gap_count) {
		struct mold_gap *gap = &mold->gaps[i], was = *gap;

		if (was.to <= from || was.from >= to) {
			i++;
			continue;
		}
		found += (was.to < to ? was.to : to) - (was.from > from ? was.from : from);
		if (was.from < from) {
			gap->to = from;
			i++;
			if (was.to > to) { /* both ends are still missing */
				add_gap(mold, to, was.to, counters);
				break;
			}
		} else if (was.to > to) {
			gap->from = to;
			i++;
		} else {
			remove_gap(mold, i);
		}
	}
	mold->missing -= found;
	count(&counters->missing, -found);
	return found;
}

static void go_on(struct mold *mold, uint64_t first, uint64_t end, uint64_t now, struct inspect_counters *counters)
{
	if (first > mold->next) {
		uint64_t gap = first - mold->next;

		inspect_gap(counters, gap);
		mold->missing += gap;
		count(&counters->missing, gap);
		add_gap(mold, mold->next, first, counters);
		mold->gap_time = now;
	}
	mold->next = end;
}

static void begin_at(struct mold *mold, uint64_t first, struct inspect_counters *counters)
{
	mold_give_up(mold, counters);
	mold->next = first;
	mold->begun = 1;
	mold->has_stray = 0;
}

/* Far from all others: believed when the next packet goes on there. */
static void note_stray(struct mold *mold, uint64_t first, uint64_t end, uint64_t now, struct inspect_counters *counters)
{
	struct mold_gap stray = mold->stray;

	if (mold->has_stray) {
		if (first >= stray.to && first - stray.to <= MOLD_NEAR) {
			if (stray.from > mold->next && stray.from - mold->next <= SEQUENCE_FAR) {
				inspect_gap(counters, stray.from - mold->next);
				inspect_lose(counters, stray.from - mold->next, now);
			} else {
				count(&counters->resets, 1);
			}
			begin_at(mold, stray.to, counters);
			go_on(mold, first, end, now, counters);
			return;
		}
		count(&counters->stray, 1);
	}
	mold->stray = (struct mold_gap){ first, end };
	mold->has_stray = 1;
}

/* What a new session began with is known, unless it is long under way. */
static void change(struct mold *mold, const struct mold_packet *packet, struct inspect_counters *counters)
{
	int is_new = mold->begun &&
		     !(mold->has_before && memcmp(packet->session, mold->before, MOLD_SESSION) == 0);

	count(&counters->changes, mold->begun);
	memcpy(mold->before, mold->session, MOLD_SESSION);
	memcpy(mold->session, packet->session, MOLD_SESSION);
	mold->has_before = mold->begun;
	begin_at(mold, is_new && packet->first - 1 <= SEQUENCE_NEAR ? 1 : packet->first, counters);
}

/* Is the packet of the session before, which is over? */
static int is_over(struct mold *mold, const struct mold_packet *packet)
{
	return mold->has_before && memcmp(packet->session, mold->before, MOLD_SESSION) == 0 &&
	       ++mold->again < MOLD_AGAIN;
}

void mold_note(struct mold *mold, const struct mold_packet *packet, uint64_t now, struct inspect_counters *counters)
{
	uint64_t first = packet->first, end = first + packet->messages;

	count(&counters->messages, packet->messages);
	if (!mold->begun || memcmp(packet->session, mold->session, MOLD_SESSION) != 0) {
		if (mold->begun && is_over(mold, packet)) {
			count(&counters->stray, 1);
			return;
		}
		change(mold, packet, counters);
	}
	mold->again = 0;
	if (mold->missing && (int64_t)(now - mold->gap_time) > (int64_t)SEQUENCE_PATIENCE_NS)
		mold_give_up(mold, counters);
	if (end < first || (first > mold->next && first - mold->next > MOLD_NEAR) ||
	    (end < mold->next && mold->next - end > MOLD_NEAR)) {
		note_stray(mold, first, end, now, counters);
		return;
	}
	if (mold->has_stray) {
		mold->has_stray = 0;
		count(&counters->stray, 1);
	}
	if (end > mold->next) {
		if (first < mold->next && fill(mold, first, mold->next, counters))
			count(&counters->reordered, 1);
		go_on(mold, first, end, now, counters);
	} else if (packet->messages > 0) {
		count(fill(mold, first, end, counters) ? &counters->reordered : &counters->repeated, 1);
	}
}
