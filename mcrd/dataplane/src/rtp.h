/* RTP (RFC 3550): its sequence numbers, by SSRC, and the interarrival jitter.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_RTP_H
#define MCRD_RTP_H

#include "sequence.h"

enum { RTP_SOURCES = 4 /* SSRCs of a flow that are kept apart */ };

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

/* Is it RTP, and not RTCP (RFC 5761, section 4)? */
int rtp_parse(const uint8_t *data, uint32_t length, struct rtp_packet *packet);
void rtp_note(struct rtp *rtp, const struct rtp_packet *packet, uint64_t now, struct inspect_counters *counters);
void rtp_give_up(struct rtp *rtp, struct inspect_counters *counters);

/* Returns the jitter after one more deviation; all in ns. */
uint64_t jitter_note(struct jitter *jitter, int64_t deviation);

/* A gauge of the jitter of the worst flow. */
struct jitter_gauge {
	uint64_t *shown, *most, *at;
};

/* Shows what the jitter of a flow is now, at this time, and was `before`. */
void jitter_show(const struct jitter_gauge *gauge, uint64_t before, uint64_t jitter, uint64_t now);

#endif
