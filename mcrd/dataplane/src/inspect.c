/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "inspect.h"

#include <stdlib.h>
#include <string.h>

#include "counters.h"

enum { MISSING_MAX = 1 << 21 /* of a flow: gaps of MoldUDP64 */ };

enum { IS_RTP = 1 << INSPECT_RTP, IS_TS = 1 << INSPECT_MPEG_TS, IS_MOLD = 1 << INSPECT_MOLDUDP64 };

#define SECOND_NS 1000000000ULL

int inspect_is_possible(const struct inspect_settings *settings)
{
	if (settings->format != INSPECT_SEQUENCE)
		return settings->format <= INSPECT_AUTO;
	return settings->bytes >= 1 && settings->bytes <= 8 && settings->offset <= UINT16_MAX;
}

struct inspector *inspector_new(const struct inspect_settings *settings, struct inspect_counters *counters,
				const struct hash_light_seed *seed, uint32_t *used)
{
	struct inspector *inspector = calloc(1, sizeof(*inspector));
	uint64_t missing = counters->missing;

	if (!inspector)
		return NULL;
	inspector->settings = *settings;
	if (settings->format == INSPECT_SEQUENCE)
		inspector->kind = sequence_kind(8U * settings->bytes);
	inspector->counters = counters;
	inspector->seed = seed;
	inspector->used = used;
	/* A worker before this one knew what it waited for. No more is believed than all flows of a rule can miss. */
	if (missing <= INSPECT_FLOWS * (uint64_t)MISSING_MAX)
		count(&counters->lost, missing);
	count(&counters->missing, -missing);
	count(&counters->flows, -counters->flows);
	return inspector;
}

/* What it misses is lost. */
static void give_up(struct inspector *inspector, struct inspected *flow)
{
	if (flow->formats & IS_RTP)
		rtp_give_up(&flow->rtp, inspector->counters);
	else if (flow->formats & IS_MOLD)
		mold_give_up(&flow->mold, inspector->counters);
	else if (inspector->settings.format == INSPECT_SEQUENCE)
		sequence_give_up(&flow->sequence, inspector->counters);
}

/* `link` is what points to it. */
static void remove_flow(struct inspector *inspector, struct inspected **link)
{
	struct inspected *flow = *link;

	give_up(inspector, flow);
	*link = flow->next;
	if (inspector->last == flow)
		inspector->last = NULL;
	free(flow->ts);
	free(flow);
	inspector->count--;
	--*inspector->used;
	count(&inspector->counters->flows, -1ULL);
}

void inspector_free(struct inspector *inspector)
{
	uint32_t i;

	if (!inspector)
		return;
	for (i = 0; i < INSPECT_BUCKETS; i++)
		while (inspector->buckets[i])
			remove_flow(inspector, &inspector->buckets[i]);
	free(inspector);
}

int inspector_is_like(const struct inspector *inspector, const struct inspect_settings *settings)
{
	const struct inspect_settings *has = &inspector->settings;

	return has->format == settings->format && has->offset == settings->offset && has->bytes == settings->bytes &&
	       has->little == settings->little;
}

/* Once a second at most: however many flows find no room, each costs the same. */
static void make_room(struct inspector *inspector, uint64_t now)
{
	uint32_t i;

	if ((int64_t)(now - inspector->next_search) < 0 && inspector->next_search - now <= SECOND_NS)
		return;
	inspector->next_search = now + SECOND_NS;
	for (i = 0; i < INSPECT_BUCKETS; i++) {
		struct inspected **link = &inspector->buckets[i];

		while (*link)
			if ((int64_t)(now - (*link)->last) > (int64_t)INSPECT_IDLE_NS)
				remove_flow(inspector, link);
			else
				link = &(*link)->next;
	}
}

static struct inspected *add_flow(struct inspector *inspector, const struct key *key, struct inspected **bucket,
				  uint64_t now)
{
	struct inspected *flow;

	if (inspector->count >= INSPECT_FLOWS || *inspector->used >= INSPECT_FLOWS_OF_ALL)
		make_room(inspector, now);
	if (inspector->count >= INSPECT_FLOWS || *inspector->used >= INSPECT_FLOWS_OF_ALL)
		return NULL;
	/* One allocation for a flow, none for its datagrams. */
	flow = calloc(1, sizeof(*flow));
	if (!flow)
		return NULL;
	flow->key = *key;
	flow->last = now;
	if (inspector->settings.format == INSPECT_RTP)
		flow->formats = IS_RTP;
	else if (inspector->settings.format == INSPECT_MOLDUDP64)
		flow->formats = IS_MOLD;
	flow->next = *bucket;
	*bucket = flow;
	inspector->count++;
	++*inspector->used;
	count(&inspector->counters->flows, 1);
	return flow;
}

static inline int is_same(const struct key *a, const struct key *b)
{
	return ((a->words[0] ^ b->words[0]) | (a->words[1] ^ b->words[1]) | (a->words[2] ^ b->words[2]) |
		(a->words[3] ^ b->words[3]) | (a->words[4] ^ b->words[4])) == 0;
}

static __attribute__((noinline)) struct inspected *find_flow(struct inspector *inspector, const struct key *key,
							     uint64_t now)
{
	struct inspected **bucket = &inspector->buckets[hash_light(inspector->seed, key) % INSPECT_BUCKETS], *flow;

	for (flow = *bucket; flow; flow = flow->next)
		if (is_same(&flow->key, key))
			break;
	if (!flow)
		flow = add_flow(inspector, key, bucket, now);
	if (flow)
		inspector->last = flow;
	return flow;
}

static inline uint64_t word(const uint8_t *at, int bytes)
{
	uint64_t whole;
	uint32_t half;

	if (bytes == 8) {
		memcpy(&whole, at, sizeof(whole));
		return whole;
	}
	memcpy(&half, at, sizeof(half));
	return half;
}

/* The flow of a packet; NULL: there is no room for it. Mostly it is that of the one before. */
static inline struct inspected *flow_of(struct inspector *inspector, const struct packet *packet, uint64_t now)
{
	uint64_t small = (uint64_t)packet->family << 32 | (uint32_t)packet->destination_port << 16 | packet->source_port;
	struct inspected *flow = inspector->last;
	struct key key;

	if (packet->family == 6)
		key = (struct key){ { word(packet->destination, 8), word(packet->destination + 8, 8),
				      word(packet->source, 8), word(packet->source + 8, 8), small } };
	else
		key = (struct key){ { word(packet->destination, 4), 0, word(packet->source, 4), 0, small } };
	if (flow && is_same(&flow->key, &key))
		return flow;
	return find_flow(inspector, &key, now);
}

static void note_silence(struct inspected *flow, uint64_t now, struct inspect_counters *counters)
{
	int64_t silence = (int64_t)(now - flow->last);

	flow->last = now;
	if (silence > (int64_t)counters->longest_silence)
		__atomic_store_n(&counters->longest_silence, (uint64_t)silence, __ATOMIC_RELAXED);
}

static void note_format(struct inspect_counters *counters, uint32_t formats)
{
	if (~counters->formats & formats)
		__atomic_store_n(&counters->formats, counters->formats | formats, __ATOMIC_RELAXED);
}

static void note_other(struct inspected *flow, struct inspect_counters *counters)
{
	count(&counters->other, 1);
	flow->others++;
}

static __attribute__((noinline)) int begin_ts(struct inspected *flow)
{
	if (!flow->ts)
		flow->ts = calloc(1, sizeof(*flow->ts));
	if (flow->ts)
		flow->formats |= IS_TS;
	return flow->ts != NULL;
}

static inline void note_ts(struct inspected *flow, const uint8_t *data, uint32_t length, uint64_t now,
			   struct inspect_counters *counters)
{
	flow->others = 0;
	note_format(counters, IS_TS);
	if (flow->formats & IS_TS || begin_ts(flow))
		ts_note(flow->ts, data, length, now, counters);
	else
		count(&counters->not_inspected, 1);
}

/* Over RTP; or of a packet that is spoilt, and may be one of them still. */
static __attribute__((noinline)) void inspect_wrapped_ts(struct inspected *flow, const uint8_t *data, uint32_t length,
							 uint64_t now, struct inspect_counters *counters)
{
	struct rtp_packet packet;

	if (rtp_parse(data, length, &packet) && (ts_is(packet.payload, packet.length) || flow->formats & IS_RTP)) {
		flow->formats |= IS_RTP;
		note_format(counters, IS_RTP);
		rtp_note(&flow->rtp, &packet, now, counters);
		note_ts(flow, packet.payload, packet.length, now, counters);
	} else if (flow->ts && length % TS_PACKET == 0) {
		note_ts(flow, data, length, now, counters);
	} else {
		note_other(flow, counters);
	}
}

/* Over UDP or RTP. */
static inline void inspect_ts(struct inspected *flow, const uint8_t *data, uint32_t length, uint64_t now,
			      struct inspect_counters *counters)
{
	if (length >= TS_PACKET && data[0] == TS_SYNC)
		note_ts(flow, data, length, now, counters);
	else
		inspect_wrapped_ts(flow, data, length, now, counters);
}

static void inspect_rtp(struct inspected *flow, const uint8_t *data, uint32_t length, uint64_t now,
			struct inspect_counters *counters)
{
	struct rtp_packet packet;

	if (!rtp_parse(data, length, &packet)) {
		note_other(flow, counters);
		return;
	}
	flow->others = 0;
	note_format(counters, IS_RTP);
	rtp_note(&flow->rtp, &packet, now, counters);
}

static void inspect_mold(struct inspected *flow, const uint8_t *data, uint32_t length, uint64_t now,
			 struct inspect_counters *counters)
{
	struct mold_packet packet;

	if (!mold_parse(data, length, &packet)) {
		note_other(flow, counters);
		return;
	}
	flow->others = 0;
	note_format(counters, IS_MOLD);
	mold_note(&flow->mold, &packet, now, counters);
}

static void inspect_sequence(struct inspector *inspector, struct inspected *flow, const uint8_t *data, uint32_t length,
			     uint64_t now)
{
	const struct inspect_settings *settings = &inspector->settings;
	uint64_t number = 0;
	uint32_t i;

	if (length < settings->offset + settings->bytes) {
		note_other(flow, inspector->counters);
		return;
	}
	data += settings->offset;
	for (i = 0; i < settings->bytes; i++)
		number = number << 8 | data[settings->little ? settings->bytes - 1 - i : i];
	note_format(inspector->counters, 1 << INSPECT_SEQUENCE);
	if (!sequence_goes_on(&flow->sequence, inspector->kind.mask, number))
		sequence_note(&flow->sequence, &inspector->kind, number, now, inspector->counters);
}

/* One datagram may look like RTP by chance: two in a row do not. */
static int is_rtp(struct inspected *flow, const uint8_t *data, uint32_t length, uint64_t now,
		  struct inspect_counters *counters)
{
	struct rtp_packet packet, first = flow->first;

	if (!rtp_parse(data, length, &packet))
		return 0;
	if (flow->has_first && first.ssrc == packet.ssrc && first.type == packet.type &&
	    (uint16_t)(packet.sequence - first.sequence - 1) < SEQUENCE_NEAR) {
		flow->formats = IS_RTP;
		rtp_note(&flow->rtp, &first, flow->first_time, counters);
		return 1;
	}
	count(&counters->other, flow->has_first);
	flow->has_first = 1;
	flow->first = packet;
	flow->first_time = now;
	return 1;
}

/* Looks for a format, and at the datagram when there is one. */
static void find_format(struct inspected *flow, const uint8_t *data, uint32_t length, uint64_t now,
			struct inspect_counters *counters)
{
	struct rtp_packet packet;

	if (ts_is(data, length) || (rtp_parse(data, length, &packet) && ts_is(packet.payload, packet.length))) {
		inspect_ts(flow, data, length, now, counters);
	} else if (mold_is(data, length)) {
		flow->formats = IS_MOLD;
		inspect_mold(flow, data, length, now, counters);
	} else if (is_rtp(flow, data, length, now, counters)) {
		if (flow->formats)
			inspect_rtp(flow, data, length, now, counters);
	} else {
		count(&counters->other, flow->has_first + 1U);
		flow->has_first = 0;
	}
}

static void inspect_auto(struct inspector *inspector, struct inspected *flow, const uint8_t *data, uint32_t length,
			 uint64_t now)
{
	struct inspect_counters *counters = inspector->counters;

	if (flow->formats & IS_TS)
		inspect_ts(flow, data, length, now, counters);
	else if (flow->formats & IS_RTP)
		inspect_rtp(flow, data, length, now, counters);
	else if (flow->formats & IS_MOLD)
		inspect_mold(flow, data, length, now, counters);
	else
		find_format(flow, data, length, now, counters);
	if (flow->others < INSPECT_OTHERS)
		return;
	give_up(inspector, flow);
	memset(&flow->rtp, 0, sizeof(flow->rtp));
	memset(&flow->mold, 0, sizeof(flow->mold));
	if (flow->ts)
		memset(flow->ts, 0, sizeof(*flow->ts));
	flow->formats = flow->others = 0;
	flow->has_first = 0;
}

void inspect(struct inspector *inspector, const struct packet *packet, const uint8_t *data, uint32_t length,
	     uint64_t now)
{
	struct inspect_counters *counters = inspector->counters;
	struct inspected *flow = flow_of(inspector, packet, now);

	if (!flow) {
		count(&counters->not_inspected, 1);
		return;
	}
	count(&counters->inspected, 1);
	__atomic_store_n(&counters->seen, now, __ATOMIC_RELAXED);
	note_silence(flow, now, counters);
	switch (inspector->settings.format) {
	case INSPECT_RTP:
		inspect_rtp(flow, data, length, now, counters);
		break;
	case INSPECT_MPEG_TS:
		inspect_ts(flow, data, length, now, counters);
		break;
	case INSPECT_MOLDUDP64:
		inspect_mold(flow, data, length, now, counters);
		break;
	case INSPECT_SEQUENCE:
		inspect_sequence(inspector, flow, data, length, now);
		break;
	case INSPECT_AUTO:
		inspect_auto(inspector, flow, data, length, now);
		break;
	}
}
