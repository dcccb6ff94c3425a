/* A worker: what it has, and what its parts share. orders.c is what the supervisor's messages do to its
 * rules, loop.c what it does between them.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_WORKER_H
#define MCRD_WORKER_H

#include <sys/socket.h>

#include "answers.h"
#include "egress.h"
#include "engine.h"
#include "flows.h"
#include "guard.h"
#include "interface.h"
#include "members.h"
#include "pace.h"
#include "ring.h"
#include "rules.h"
#include "shared.h"

enum {
	MESSAGE_ROOM = 256 * 1024, /* more than a SOCK_SEQPACKET datagram of the default send buffer */
	DESCRIPTORS = 253,         /* SCM_MAX_FD, linux/net/scm.h */
};

struct worker {
	struct worker_settings settings;
	struct interface interfaces[MCRD_INTERFACES];
	struct rules rules;
	struct flows flows;
	uint32_t inspected; /* flows of all rules that are looked at */
	struct merge_stream *merged;
	uint32_t ordered; /* of them: how many have an order */
	uint64_t holding; /* those that hold something, or have not written it yet: by their places */
	struct order *orders[MCRD_ORDERED_STREAMS];
	uint64_t looked; /* the time of the last frame that was taken, ns */
	uint64_t passed; /* and of the last one that a leg was the first to bring, */
	uint64_t flushes; /* after so many of the egress */
	struct switch_stream *switched;
	struct backlog *backlog; /* NULL: no rule has one */
	struct segment *segment;
	struct guard_memory *shared;
	struct guard guard;
	struct breaker_test test;
	struct engine engine;
	struct egress egress;
	struct answers answers;
	struct pace pace;
	int hurry;           /* the last harvest was full, or took much of what a ring of large frames holds */

	uint64_t began;      /* when, CLOCK_REALTIME in ns */
	int begun;           /* there are rules: the rings may be looked at */
	uint64_t since;      /* frames of before are another worker's, */
	uint64_t until;      /* and so are those from then on: by their times; */
	int passes_over;     /* they are taken, and left to it. Else the rings are left alone at the first */
	int waiting_ready;   /* a poll or a pause is under way */
	int waiting_message; /* a receive is under way */
	int message_failed;  /* so many receives in a row */
	int pause;           /* the packet socket has an error that only the supervisor can take from it */
	int message_done;
	int message_length;
	struct msghdr message_header;
	struct iovec message_data;
	uint8_t message[MESSAGE_ROOM];
	_Alignas(struct cmsghdr) uint8_t ancillary[CMSG_SPACE(DESCRIPTORS * sizeof(int))];
};

/* A completion that is none of a send; `context` is the worker. */
void worker_complete(void *context, const struct completion *done);

/* The rule is no leg of a stream any more. */
void worker_leave_stream(struct worker *worker, struct rule *rule);

/* Sends a datagram of an output by `to`, the output itself or what a member has for it, within the output's limit. As
 * egress_add(). */
static inline int worker_send(struct worker *worker, struct output *output, const struct output *to, const uint8_t *data,
			      uint32_t length, uint64_t now, egress_other *other)
{
	if (!limit_pass(&output->limit, now)) {
		count(&output->counters->dropped.rate_limited, 1);
		return 0;
	}
	return egress_add(&worker->egress, to, data, length, other, worker);
}

#endif
