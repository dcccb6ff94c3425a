/* What inspect() and the merging of two legs cost for a datagram, in ns: the best of many rounds.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "inspect.h"
#include "merge.h"

enum { PAYLOAD = 1316 + 12, BATCH = 256, BATCHES = 2000, AHEAD = 3 };

static uint8_t payloads[BATCH][PAYLOAD];
static struct merge_copy copies[MCRD_MERGE_COPIES] __attribute__((aligned(64)));
static uint32_t sequence;
static uint32_t lateness[BATCH]; /* how long after the one before a datagram comes, in ns: nobody can foretell it */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static void put32(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 24);
	at[1] = (uint8_t)(value >> 16);
	at[2] = (uint8_t)(value >> 8);
	at[3] = (uint8_t)value;
}

/* The next numbers of a stream of RTP, which is one of plain numbers as well where that is looked at. Its payload type
 * has a clock of 90 kHz, so that there is a jitter. */
static void fill(void)
{
	uint32_t i;

	for (i = 0; i < BATCH; i++, sequence++) {
		put32(payloads[i], 0x80210000 | (sequence & 0xffff));
		put32(payloads[i] + 4, sequence * 9 / 5);
		put32(payloads[i] + 8, 7);
		put32(payloads[i] + 12, sequence);
	}
}

/* Those of a transport stream of one PID. */
static void fill_ts(void)
{
	uint32_t i, at;

	for (i = 0; i < BATCH; i++)
		for (at = 0; at + TS_PACKET <= PAYLOAD; at += TS_PACKET)
			put32(payloads[i] + at, 0x47010010 | (sequence++ & 15));
}

/* Those of a programme: video; audio in each eighth packet, null packets and tables; a PCR in each hundredth. */
static void fill_programme(void)
{
	static uint8_t counters[3];
	uint32_t i, at, kind;

	for (i = 0; i < BATCH; i++)
		for (at = 0; at + TS_PACKET <= PAYLOAD; at += TS_PACKET, sequence++) {
			uint8_t *packet = payloads[i] + at;

			kind = sequence % 8 == 3 ? 1 : sequence % 64 == 9 ? 2 : 0;
			put32(packet, 0x47010010 | kind << 8 | (counters[kind]++ & 15));
			if (sequence % 16 == 7) {
				counters[0] -= kind == 0;
				put32(packet, 0x471fff10);
			} else if (sequence % 100 == 0 && kind == 0) {
				uint64_t base = (uint64_t)sequence * 3000 / 7 * 27 / 300000;

				packet[3] |= 0x20;
				packet[4] = 7;
				packet[5] = 0x10;
				put32(packet + 6, (uint32_t)(base >> 1));
				packet[10] = (uint8_t)(base << 7);
				packet[11] = 0;
			}
		}
}

static void say(const char *what, uint64_t best)
{
	printf("%s %.1f\n", what, (double)best / BATCH);
}

static void measure_inspect(const char *what, struct inspect_settings settings, void (*make)(void), uint32_t length)
{
	static struct inspect_counters counters;
	static struct hash_light_seed seed;
	static const uint8_t address[16] = { 239, 1, 1, 1 };
	struct packet packet = { .source = address, .destination = address, .payload_length = length, .family = 4 };
	uint32_t used = 0, i, batch;
	struct inspector *inspector = inspector_new(&settings, &counters, &seed, &used);
	uint64_t best = UINT64_MAX, time = 1700000000000000000ULL, began, took;

	if (!inspector)
		abort();
	for (batch = 0; batch < BATCHES; batch++) {
		make();
		for (i = 0; i < BATCH; i++)
			lateness[i] = 19000 + (uint32_t)random() % 2000;
		began = now_ns();
		for (i = 0; i < BATCH; i++)
			inspect(inspector, &packet, payloads[i], length, time += lateness[i]);
		took = now_ns() - began;
		best = took < best ? took : best;
	}
	if (counters.inspected != BATCH * BATCHES || counters.lost || counters.resets || counters.other ||
	    counters.continuity || counters.sync)
		abort();
	inspector_free(inspector);
	memset(&counters, 0, sizeof(counters));
	say(what, best);
}

/* Each datagram comes by both legs: half are the first, half the second copy. A worker names a datagram, so that the
 * CPU fetches where it is remembered, and then relays the one before it, which takes longer than all of this. As nothing
 * is relayed here, it is named `ahead` before it is asked for. */
static void measure_merge(const char *what, uint8_t by, uint32_t length, uint32_t ahead)
{
	static struct guard_memory shared;
	static struct guard guard;
	static struct merge_counters counters[2];
	struct merge_settings settings[2];
	struct merge_stream *streams = NULL, *stream = NULL;
	struct merge_name names[BATCH];
	uint64_t best = UINT64_MAX, time = 1700000000000000000ULL, began, took;
	uint32_t i, batch, passed = 0;
	uint8_t leg;

	for (i = 0; i < MCRD_GUARD_SEEDS; i++)
		shared.seed[i] = 0x9e3779b97f4a7c15ULL * (i + 1);
	guard_init(&guard, &shared);
	for (leg = 0; leg < 2; leg++) {
		settings[leg] = (struct merge_settings){ .stream = 7, .by = by, .leg = leg, .offset = 12, .bytes = 4 };
		stream = merge_join(&streams, &settings[leg], &counters[leg]);
		if (!stream)
			abort();
	}
	for (batch = 0; batch < BATCHES; batch++) {
		fill();
		for (leg = 0; leg < 2; leg++) {
			began = now_ns();
			for (i = 0; i < BATCH + ahead; i++) {
				if (i < BATCH)
					merge_look(&settings[leg], copies, &guard, payloads[i], length, &names[i]);
				if (i >= ahead)
					passed += (uint32_t)merge_is_first(stream, leg, copies, &names[i - ahead], 0, time += 20000);
			}
			took = now_ns() - began;
			if (leg == 0) /* what comes first costs more */
				best = took < best ? took : best;
		}
	}
	if (passed != BATCH * BATCHES)
		abort();
	for (leg = 0; leg < 2; leg++)
		merge_leave(&streams, stream, &counters[leg]);
	say(what, best);
}

int main(void)
{
	measure_inspect("inspect-rtp", (struct inspect_settings){ .format = INSPECT_RTP }, fill, PAYLOAD);
	measure_inspect("inspect-sequence", (struct inspect_settings){ .format = INSPECT_SEQUENCE, .offset = 12, .bytes = 4 },
			fill, PAYLOAD);
	measure_inspect("inspect-mpeg-ts", (struct inspect_settings){ .format = INSPECT_MPEG_TS }, fill_ts, 7 * TS_PACKET);
	measure_inspect("inspect-programme", (struct inspect_settings){ .format = INSPECT_MPEG_TS }, fill_programme,
			7 * TS_PACKET);
	measure_merge("merge-rtp", MERGE_RTP, PAYLOAD, AHEAD);
	measure_merge("merge-sequence", MERGE_SEQUENCE, PAYLOAD, AHEAD);
	measure_merge("merge-content", MERGE_CONTENT, PAYLOAD, AHEAD);
	measure_merge("merge-content-at-once", MERGE_CONTENT, PAYLOAD, 1);
	measure_merge("merge-content-short", MERGE_CONTENT, 200, AHEAD);
	return 0;
}
