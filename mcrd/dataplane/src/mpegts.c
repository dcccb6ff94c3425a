/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "mpegts.h"

#include "counters.h"

enum {
	TS_USUAL = 7, /* packets of a datagram */
	NULL_PID = 0x1fff,
	LAST_COUNTER = 0x0f, /* in a byte of struct ts.pids */
	IS_KNOWN = 0x10,
	IS_DUPLICATED = 0x40,
	CONTROL = 0x3f, /* of a header's last byte: is there an adaptation field, is there payload, and the counter */
};

/* What follows in a byte of struct ts.pids. To look it up is quicker than to reckon it. */
static const uint8_t following[] = {
	[IS_KNOWN] = 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x10,
};

#define PCR_SECOND 27000000ULL
#define PCR_WRAP (300ULL << 33)

int ts_is(const uint8_t *data, uint32_t length)
{
	return length >= TS_PACKET && length % TS_PACKET == 0 && data[0] == TS_SYNC && data[length - TS_PACKET] == TS_SYNC;
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
	uint8_t *next = &ts->pids[pid], known = *next, counter = packet[3] & 15, payload = packet[3] >> 4 & 1;
	uint8_t before = (known - 1) & LAST_COUNTER;

	*next = following[IS_KNOWN | counter];
	if (!(known & IS_KNOWN) || discontinuity || counter == ((before + payload) & LAST_COUNTER))
		return;
	if (payload && counter == before && !(known & IS_DUPLICATED)) {
		*next |= IS_DUPLICATED;
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

/* Returns 1: it is none. */
static __attribute__((noinline)) uint32_t note_packet(struct ts *ts, const uint8_t *packet, uint64_t now,
						      struct inspect_counters *counters)
{
	uint16_t pid = (uint16_t)((packet[1] & 0x1f) << 8 | packet[2]);
	int adaptation = packet[3] >> 5 & 1, discontinuity;

	if (*packet != TS_SYNC) {
		count(&counters->sync, 1);
		return 1;
	}
	if (packet[1] & 0x80) { /* what else it says is not to be relied upon */
		count(&counters->transport, 1);
		return 0;
	}
	if (pid == NULL_PID || (packet[3] & 0x30) == 0)
		return 0;
	discontinuity = adaptation && packet[4] > 0 && packet[5] & 0x80;
	note_counter(ts, pid, packet, discontinuity, now, counters);
	if (adaptation && packet[4] >= 7 && packet[5] & 0x10)
		note_pcr(ts, pid, packet + 6, discontinuity, now, counters);
	return 0;
}

/* Is it a null packet, or the next of its PID, with nothing but payload? Most are, so this has to be quick. */
static inline int goes_on(struct ts *ts, const uint8_t *packet)
{
	uint32_t header = rtp_32(packet), pid = header >> 8 & NULL_PID, control = header & CONTROL;

	/* The highest bit after the sync byte is that of transport errors. */
	if (__builtin_expect(header >> 23 != TS_SYNC << 1, 0))
		return 0;
	if (__builtin_expect(control != ts->pids[pid], 0))
		return pid == NULL_PID;
	ts->pids[pid] = following[control];
	return 1;
}

/* From the packet at `at` on. */
static __attribute__((noinline)) void note_from(struct ts *ts, const uint8_t *data, uint32_t length, uint32_t at,
						uint64_t now, struct inspect_counters *counters)
{
	uint32_t packets = length / TS_PACKET;

	if (length % TS_PACKET) /* cut off */
		count(&counters->sync, 1);
	for (; at + TS_PACKET <= length; at += TS_PACKET)
		if (!goes_on(ts, data + at))
			packets -= note_packet(ts, data + at, now, counters);
	count(&counters->ts_packets, packets);
}

void ts_note(struct ts *ts, const uint8_t *data, uint32_t length, uint64_t now, struct inspect_counters *counters)
{
	uint32_t i;

	if (length != TS_USUAL * TS_PACKET) {
		note_from(ts, data, length, 0, now, counters);
		return;
	}
#pragma GCC unroll 7
	for (i = 0; i < TS_USUAL; i++)
		if (!goes_on(ts, data + i * TS_PACKET)) {
			note_from(ts, data, length, i * TS_PACKET, now, counters);
			return;
		}
	count(&counters->ts_packets, TS_USUAL);
}
