/* What a rule's payloads say of the network before this host: what was lost, repeated and reordered there. Each flow of a
 * rule is looked at by itself. Nothing that a sender can do makes a datagram cost more than a constant; flows are bounded.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_INSPECT_H
#define MCRD_INSPECT_H

#include "hash.h"
#include "moldudp.h"
#include "mpegts.h"
#include "packet.h"
#include "rtp.h"

enum {
	INSPECT_FLOWS = 64,         /* of a rule, that are kept apart, */
	INSPECT_FLOWS_OF_ALL = 4096, /* and of all rules of a worker */
	INSPECT_BUCKETS = 64,
	INSPECT_OTHERS = 100,       /* so many datagrams of another format in a row, and "auto" looks anew */
};

/* A flow that was idle for so long makes room for a new one. */
#define INSPECT_IDLE_NS 10000000000ULL

struct inspected {
	struct key key;
	struct inspected *next; /* of the bucket */
	uint64_t last;          /* when its last datagram came */
	uint32_t formats;       /* bits of enum inspect_format that it has; with "auto", 0: not known yet */
	uint32_t others;        /* in a row */
	int has_first;          /* with "auto": it may be RTP, if the next one agrees */
	struct rtp_packet first;
	uint64_t first_time;
	union {
		struct rtp rtp; /* with RTP, and MPEG-TS over it */
		struct mold mold;
		struct sequence sequence;
	};
	struct ts *ts;
};

struct inspector {
	struct inspect_settings settings;
	struct sequence_kind kind;
	struct inspect_counters *counters;
	const struct hash_light_seed *seed;
	uint32_t *used; /* flows of all rules */
	uint32_t count;
	uint64_t next_search; /* for a flow that is idle */
	struct inspected *last; /* that a datagram was of */
	struct inspected *buckets[INSPECT_BUCKETS];
};

int inspect_is_possible(const struct inspect_settings *settings);

/* NULL: no memory. */
struct inspector *inspector_new(const struct inspect_settings *settings, struct inspect_counters *counters,
				const struct hash_light_seed *seed, uint32_t *used);
void inspector_free(struct inspector *inspector);
int inspector_is_like(const struct inspector *inspector, const struct inspect_settings *settings);

/* Looks at a datagram of a packet, which may have several. `now` is in nanoseconds. */
void inspect(struct inspector *inspector, const struct packet *packet, const uint8_t *data, uint32_t length,
	     uint64_t now);

#endif
