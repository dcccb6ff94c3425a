/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "mpegts.h"

#include "counters.h"

enum {
	SYNC = 0x47,
	NULL_PID = 0x1fff,
	LAST_COUNTER = 0x0f, /* in a byte of struct ts.pids */
	IS_KNOWN = 0x10,
	IS_DUPLICATED = 0x20,
};

#define PCR_SECOND 27000000ULL
#define PCR_WRAP (300ULL << 33)

int ts_is(const uint8_t *data, uint32_t length)
{
	return length >= TS_PACKET && length % TS_PACKET == 0 && data[0] == SYNC && data[length - TS_PACKET] == SYNC;
}

/* The last place takes every PID that found no place of its own, as number 0. */
static void count_error(uint16_t pid, uint64_t now, struct inspect_counters *counters)
{
	struct pid_counter *place = counters->pids;
	int i;

	count(&counters->continuity, 1);
	inspect_event(&counters->last_continuity, 1, now);
	for (i = 0; i < MCRD_PID_PLACES - 1; i++, place++) {
		if (place->pid == 0)
			__atomic_store_n(&place->pid, pid + 1ULL, __ATOMIC_RELAXED);
		if (place->pid == pid + 1ULL)
			break;
	}
	count(&place->errors, 1);
}

static void note_counter(struct ts *ts, uint16_t pid, const uint8_t *packet, int discontinuity, uint64_t now,
			 struct inspect_counters *counters)
{
	uint8_t *known = &ts->pids[pid], before = *known, counter = packet[3] & 15, payload = packet[3] >> 4 & 1;
	uint8_t expected = (before + payload) & LAST_COUNTER;

	*known = IS_KNOWN | counter;
	if (!(before & IS_KNOWN) || discontinuity || counter == expected)
		return;
	if (payload && counter == (before & LAST_COUNTER) && !(before & IS_DUPLICATED)) {
		*known |= IS_DUPLICATED;
		count(&counters->duplicates, 1);
		return;
	}
	count_error(pid, now, counters);
}

static struct ts_clock *clock_of(struct ts *ts, uint16_t pid, int *is_new)
{
	uint32_t i;

	*is_new = 0;
	for (i = 0; i < ts->clock_count; i++)
		if (ts->clocks[i].pid == pid)
			return &ts->clocks[i];
	if (ts->clock_count == TS_CLOCKS)
		return NULL;
	*is_new = 1;
	ts->clocks[ts->clock_count] = (struct ts_clock){ .pid = pid };
	return &ts->clocks[ts->clock_count++];
}

static uint64_t read_pcr(const uint8_t *field)
{
	uint64_t base = (uint64_t)field[0] << 25 | (uint64_t)field[1] << 17 | (uint64_t)field[2] << 9 |
			(uint64_t)field[3] << 1 | field[4] >> 7;

	return (base * 300 + ((field[4] & 1U) << 8 | field[5])) % PCR_WRAP;
}

static void note_pcr(struct ts *ts, uint16_t pid, const uint8_t *field, int discontinuity, uint64_t now,
		     struct inspect_counters *counters)
{
	const struct jitter_gauge gauge = { &counters->pcr_jitter, &counters->pcr_jitter_most,
					    &counters->pcr_jitter_at };
	int is_new;
	struct ts_clock *clock = clock_of(ts, pid, &is_new), before;
	uint64_t pcr = read_pcr(field), ticks, said;
	int64_t took;

	if (!clock)
		return;
	before = *clock;
	clock->pcr = pcr;
	clock->time = now;
	if (is_new || discontinuity)
		return;
	ticks = (pcr + PCR_WRAP - before.pcr) % PCR_WRAP;
	if (ticks > PCR_SECOND) {
		count(&counters->pcr_jumps, 1);
		return;
	}
	said = ticks * 1000 / 27;
	took = (int64_t)(now - before.time);
	if (said > counters->pcr_interval)
		__atomic_store_n(&counters->pcr_interval, said, __ATOMIC_RELAXED);
	if (took < -(int64_t)SEQUENCE_PATIENCE_NS || took > 10 * (int64_t)SEQUENCE_PATIENCE_NS)
		return;
	jitter_show(&gauge, before.jitter.sixteen >> 4, jitter_note(&clock->jitter, took - (int64_t)said), now);
}

static void note_packet(struct ts *ts, const uint8_t *packet, uint64_t now, struct inspect_counters *counters)
{
	uint16_t pid = (uint16_t)((packet[1] & 0x1f) << 8 | packet[2]);
	int adaptation = packet[3] >> 5 & 1, discontinuity;

	if (packet[1] & 0x80) { /* what else it says is not to be relied upon */
		count(&counters->transport, 1);
		return;
	}
	if (pid == NULL_PID || (packet[3] & 0x30) == 0)
		return;
	discontinuity = adaptation && packet[4] > 0 && packet[5] & 0x80;
	note_counter(ts, pid, packet, discontinuity, now, counters);
	if (adaptation && packet[4] >= 7 && packet[5] & 0x10)
		note_pcr(ts, pid, packet + 6, discontinuity, now, counters);
}

void ts_note(struct ts *ts, const uint8_t *data, uint32_t length, uint64_t now, struct inspect_counters *counters)
{
	uint32_t at;

	for (at = 0; at + TS_PACKET <= length; at += TS_PACKET) {
		if (data[at] != SYNC) {
			count(&counters->sync, 1);
			continue;
		}
		count(&counters->ts_packets, 1);
		note_packet(ts, data + at, now, counters);
	}
	if (at < length) /* cut off */
		count(&counters->sync, 1);
}
