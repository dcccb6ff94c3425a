/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "rtp.h"

#include <string.h>

#include "counters.h"

#define SECOND_NS 1000000000LL

#define PAUSE_NS (10 * SECOND_NS)

enum { TICKS = 2000000 /* ten seconds of the fastest clock */ };

static const struct sequence_kind kind = {
	.mask = 0xffff,
	.far = 0x7fff,
	.near = SEQUENCE_NEAR,
	.window = SEQUENCE_WINDOW,
};

static uint64_t tick_of(uint64_t rate)
{
	return ((uint64_t)SECOND_NS << 16) / rate;
}

/* RFC 3551, section 6, for the payload types that have a clock of their own. */
static uint64_t tick_of_type(uint8_t type)
{
	static const uint16_t odd[] = { [6] = 16000, [16] = 11025, [17] = 22050 };

	if (type == 6 || type == 16 || type == 17)
		return tick_of(odd[type]);
	if (type == 10 || type == 11)
		return tick_of(44100);
	if (type == 14 || (type >= 25 && type <= 34))
		return tick_of(90000);
	return type <= 18 ? tick_of(8000) : 0;
}

/* The clock of a dynamic payload type, from how far it went in the second or so since `since_time`. */
static __attribute__((noinline)) void tell_clock(struct rtp_source *source, uint32_t timestamp, uint64_t now)
{
	static const uint32_t rates[] = { 8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 90000, 96000, 192000 };
	int64_t took = (int64_t)(now - source->since_time);
	uint64_t rate;
	uint32_t i;

	if (took >= 0 && took < SECOND_NS)
		return;
	rate = took > 0 && took < 100 * SECOND_NS ?
		       (uint64_t)(timestamp - source->since) * (uint64_t)SECOND_NS / (uint64_t)took : 0;
	for (i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
		if (rate * 100 >= rates[i] * 98ULL && rate * 100 <= rates[i] * 102ULL)
			source->tick = tick_of(rates[i]);
	source->since = timestamp;
	source->since_time = now;
}

static inline void note_jitter(struct rtp_source *source, const struct rtp_packet *packet, uint64_t now,
			       struct inspect_counters *counters)
{
	int64_t took = (int64_t)(now - source->time), ticks = (int32_t)(packet->timestamp - source->timestamp);
	const struct jitter_gauge gauge = { &counters->jitter, &counters->jitter_most, &counters->jitter_at };
	uint64_t before = source->jitter.sixteen >> 4;

	source->time = now;
	source->timestamp = packet->timestamp;
	/* More is a pause, or a clock that was set. */
	if (took > PAUSE_NS || took < -PAUSE_NS || ticks > TICKS || ticks < -TICKS)
		return;
	took -= ticks * (int64_t)source->tick / 65536;
	jitter_show(&gauge, before, jitter_note(&source->jitter, took), now);
}

static struct rtp_source *find(struct rtp *rtp, uint32_t ssrc)
{
	uint32_t i;

	for (i = 0; i < rtp->count; i++)
		if (rtp->sources[i].ssrc == ssrc)
			return &rtp->sources[i];
	return NULL;
}

/* A place for a new SSRC: a free one, or that of one that has been silent for a second. NULL: there is none. */
static struct rtp_source *place_for(struct rtp *rtp, uint64_t now, struct inspect_counters *counters)
{
	struct rtp_source *oldest = &rtp->sources[0];
	uint32_t i;

	if (rtp->count < RTP_SOURCES)
		return &rtp->sources[rtp->count++];
	for (i = 1; i < RTP_SOURCES; i++)
		if (rtp->sources[i].time < oldest->time)
			oldest = &rtp->sources[i];
	if ((int64_t)(now - oldest->time) < SECOND_NS)
		return NULL;
	sequence_give_up(&oldest->sequence, counters);
	return oldest;
}

/* NULL: there is no place for it. */
static __attribute__((noinline)) struct rtp_source *add(struct rtp *rtp, const struct rtp_packet *packet, uint64_t now,
							struct inspect_counters *counters)
{
	struct rtp_source *source;

	count(&counters->changes, rtp->count > 0);
	source = place_for(rtp, now, counters);
	if (source)
		*source = (struct rtp_source){
			.ssrc = packet->ssrc,
			.timestamp = packet->timestamp,
			.time = now,
			.tick = tick_of_type(packet->type),
			.since = packet->timestamp,
			.since_time = now,
		};
	else
		count(&counters->not_inspected, 1);
	return source;
}

static inline void note_number(struct rtp_source *source, const struct rtp_packet *packet, uint64_t now,
			       struct inspect_counters *counters)
{
	if (!sequence_goes_on(&source->sequence, kind.mask, packet->sequence))
		sequence_note(&source->sequence, &kind, packet->sequence, now, counters);
}

static __attribute__((noinline)) void note_any(struct rtp *rtp, const struct rtp_packet *packet, uint64_t now,
					       struct inspect_counters *counters)
{
	struct rtp_source *source = find(rtp, packet->ssrc);

	if (!source) {
		source = add(rtp, packet, now, counters);
		if (!source)
			return;
	} else if (source->tick == 0) {
		source->time = now;
		source->timestamp = packet->timestamp;
		tell_clock(source, packet->timestamp, now);
	} else {
		note_jitter(source, packet, now, counters);
	}
	note_number(source, packet, now, counters);
}

void rtp_note(struct rtp *rtp, const struct rtp_packet *packet, uint64_t now, struct inspect_counters *counters)
{
	struct rtp_source *source = &rtp->sources[0];

	/* Mostly there is one, whose clock is known: this has to be quick. */
	if (source->tick == 0 || source->ssrc != packet->ssrc) {
		note_any(rtp, packet, now, counters);
		return;
	}
	note_jitter(source, packet, now, counters);
	note_number(source, packet, now, counters);
}

void rtp_give_up(struct rtp *rtp, struct inspect_counters *counters)
{
	uint32_t i;

	for (i = 0; i < rtp->count; i++)
		sequence_give_up(&rtp->sources[i].sequence, counters);
}
