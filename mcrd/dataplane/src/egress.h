/* Egress: datagrams straight from ring memory to connected UDP sockets, by writev of the engine.
 *
 * What goes to one socket is gathered into runs of datagrams of one length, the last of which may be
 * shorter; the kernel cuts a run at the length that UDP_SEGMENT names (udp(7)). The order of a socket's
 * datagrams is kept, whatever fails.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_EGRESS_H
#define MCRD_EGRESS_H

#include "counters.h"
#include "engine.h"
#include "rules.h"

enum {
	EGRESS_RUNS = MCRD_RUNS, /* between two flushes */
	EGRESS_SEGMENTS = 64, /* UDP_MAX_SEGMENTS, include/linux/udp.h, before Linux 6.11 */
	EGRESS_BYTES = 65507, /* of a run: what one IPv4 packet would hold */
};

enum run_state { RUN_GATHERED, RUN_UNDER_WAY, RUN_ANSWERED };

struct run {
	const struct output *output;
	uint32_t next;      /* of the same socket; EGRESS_RUNS: none */
	uint32_t length;    /* of each datagram but the last */
	uint32_t bytes;
	int32_t result;
	uint8_t datagrams;
	uint8_t vectors;
	uint8_t closed;     /* takes no more */
	uint8_t state;      /* enum run_state */
	uint8_t attempts;   /* that met a report, in a row */
	uint8_t reports;
	uint8_t apart;      /* goes one by one: the kernel would not cut it */
	uint8_t done;       /* datagrams that are, of one that goes one by one */
};

struct egress_socket {
	int descriptor;     /* -1: none */
	uint32_t segment;   /* what UDP_SEGMENT is */
	uint32_t below;     /* datagrams shorter than this are gathered */
	uint32_t first;     /* runs; EGRESS_RUNS: none */
	uint32_t last;
	uint8_t unlinked;   /* a run that fails does not hold up the next, until the flush ends */
	uint64_t window;    /* of the output's meter */
	uint64_t restore;   /* when all are gathered again, CLOCK_MONOTONIC in ns; 0: never */
	struct iovec piece; /* the next datagram of a run that goes one by one */
};

struct egress {
	struct engine *engine;
	int waits;   /* io_uring knows no RWF_NOWAIT for sockets (before Linux 6.5): it has to be told to give up */
	int no_wait; /* it does know it: seen */
	uint32_t places;
	struct egress_socket *sockets;
	uint32_t *active; /* sockets that have runs */
	uint32_t active_count;
	uint32_t count; /* runs */
	uint64_t time;  /* that the last frame came at */
	uint64_t runs_so_far;
	uint64_t flushes;
	uint64_t *sent; /* datagrams of all sockets, */
	uint64_t *failed; /* and those that were not */
	struct in_hand *in_hand; /* of each run; all zero while there is none */
	uint64_t *submitted;
	const struct output_counters *outputs;
	struct run runs[EGRESS_RUNS];
	/* One more than it takes: rows that are a power of two apart would share cache sets. */
	struct iovec vectors[EGRESS_RUNS][EGRESS_SEGMENTS + 1];
};

/* A completion that is none of a send: what flush() found while it waited for its own. */
typedef void egress_other(void *context, const struct completion *done);

/* What a send is called by; other operations have smaller numbers, up to EGRESS_CANCEL, or larger ones than any send. */
enum { EGRESS_CANCEL = 15, EGRESS_FIRST = 16 };

int egress_init(struct egress *egress, struct engine *engine, uint32_t places, struct segment *segment);
void egress_free(struct egress *egress);

/* How the engine calls the socket there. */
static inline struct engine_file egress_file(const struct egress *egress, uint32_t place)
{
	return (struct engine_file){ place, egress->sockets[place].descriptor };
}

/* Takes over the descriptor, and closes the one that was there; -1: none. */
void egress_put(struct egress *egress, uint32_t place, int descriptor);

/* Both return 0, or a negative errno of the engine itself. The data must stay until egress_flush() has returned. */
int egress_add(struct egress *egress, const struct output *output, const uint8_t *data, uint32_t length,
	       egress_other *other, void *context);
int egress_flush(struct egress *egress, egress_other *other, void *context);

#endif
