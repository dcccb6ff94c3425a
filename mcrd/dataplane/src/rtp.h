/* RTP (RFC 3550): its sequence numbers, by SSRC, and the interarrival jitter.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_RTP_H
#define MCRD_RTP_H

#include "sequence.h"

enum { RTP_HEADER = 12, RTP_SOURCES = 4 /* SSRCs of a flow that are kept apart */ };

/* A smoothed deviation: of 16 times what it is, as in RFC 3550, A.8. */
struct jitter {
	uint64_t sixteen;
};

struct rtp_source {
	uint32_t ssrc;
	uint32_t timestamp;    /* of the datagram before this one, */
	uint64_t time;         /* and when that came */
	uint64_t tick;         /* in 1/65536 ns; 0: not known yet */
	uint32_t since;        /* a timestamp, */
	uint64_t since_time;   /* and when it came: what the clock is told by */
	struct jitter jitter;
	struct sequence sequence;
};

struct rtp {
	uint32_t count;
	struct rtp_source sources[RTP_SOURCES];
};

struct rtp_packet {
	uint16_t sequence;
	uint32_t timestamp;
	uint32_t ssrc;
	uint8_t type;
	const uint8_t *payload;
	uint32_t length;
};

static inline uint16_t rtp_16(const uint8_t *data)
{
	return (uint16_t)(data[0] << 8 | data[1]);
}

static inline uint32_t rtp_32(const uint8_t *data)
{
	return (uint32_t)rtp_16(data) << 16 | rtp_16(data + 2);
}

/* Is it RTP, and not RTCP (RFC 5761, section 4)? */
static inline int rtp_parse(const uint8_t *data, uint32_t length, struct rtp_packet *packet)
{
	uint32_t header, padding = 0;

	if (length < RTP_HEADER || data[0] >> 6 != 2)
		return 0;
	packet->type = data[1] & 0x7f;
	header = RTP_HEADER + 4 * (data[0] & 15U);
	if (packet->type - 64U < 32 || header > length)
		return 0;
	if (data[0] & 0x10) { /* an extension: two bytes, and its length in words */
		if (header + 4 > length)
			return 0;
		header += 4 + 4 * (uint32_t)rtp_16(data + header + 2);
	}
	if (data[0] & 0x20)
		padding = data[length - 1];
	if (header + padding > length)
		return 0;
	packet->sequence = rtp_16(data + 2);
	packet->timestamp = rtp_32(data + 4);
	packet->ssrc = rtp_32(data + 8);
	packet->payload = data + header;
	packet->length = length - header - padding;
	return 1;
}

void rtp_note(struct rtp *rtp, const struct rtp_packet *packet, uint64_t now, struct inspect_counters *counters);
void rtp_give_up(struct rtp *rtp, struct inspect_counters *counters);

/* A gauge of the jitter of the worst flow. */
struct jitter_gauge {
	uint64_t *shown, *most, *at;
};

/* Returns the jitter after one more deviation; all in ns. */
static inline uint64_t jitter_note(struct jitter *jitter, int64_t deviation)
{
	uint64_t size = (uint64_t)(deviation < 0 ? -deviation : deviation);

	jitter->sixteen += size - ((jitter->sixteen + 8) >> 4);
	return jitter->sixteen >> 4;
}

/* Shows what the jitter of a flow is now, at this time, and was `before`. */
static inline void jitter_show(const struct jitter_gauge *gauge, uint64_t before, uint64_t jitter, uint64_t now)
{
	/* Who is the worst, and gets better, shows that; and so does anybody when it has come to an end. That nobody can
	 * foretell is asked for later: mostly there is one flow. */
	if (before == *gauge->shown || jitter > *gauge->shown || now - *gauge->at > 1000000000ULL) {
		__atomic_store_n(gauge->shown, jitter, __ATOMIC_RELAXED);
		__atomic_store_n(gauge->at, now, __ATOMIC_RELAXED);
	}
	if (jitter > *gauge->most)
		__atomic_store_n(gauge->most, jitter, __ATOMIC_RELAXED);
}

#endif
