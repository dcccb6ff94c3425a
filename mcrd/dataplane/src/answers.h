/* Answers: what comes by unicast to the port that an asker has on an output's side goes back to the asker.
 *
 * Such a port is a socket that is not connected, for anybody may answer. A poll says when something is there; then it is
 * received, and written to the socket that is connected to the asker.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_ANSWERS_H
#define MCRD_ANSWERS_H

#include <liburing.h>
#include <sys/socket.h>

#include "egress.h"

enum {
	ANSWERS_AT_ONCE = 32, /* received between two harvests: a flood of them holds up no frame */
	ANSWERS_BYTES = 65536,
};

/* What stands in the user_data of its operations; those of egress.h are smaller. */
#define ANSWERS_POLL (1ULL << 62)
#define ANSWERS_RECEIVE (1ULL << 61)

struct answers_port {
	struct output to;      /* the asker's socket */
	const uint64_t *asked; /* when the asker asked last: the time of a frame, in ns */
	uint64_t within;       /* so much later an answer is late, in ns */
	uint32_t generation;   /* another one for each socket that was here */
	uint8_t listens;
	uint8_t polled;
	uint8_t queued;
};

struct answers {
	struct io_uring *uring;
	struct egress *egress;
	uint32_t places;
	struct answers_port *ports; /* by their places in the file table */
	uint32_t *queue;            /* places where something is to be received; a place stands there once */
	uint32_t head, count;
	uint32_t pending;
	int results[ANSWERS_AT_ONCE];
	struct msghdr headers[ANSWERS_AT_ONCE];
	struct iovec vectors[ANSWERS_AT_ONCE];
	uint8_t *buffers;
};

/* As many places as the egress has. */
int answers_init(struct answers *answers, struct io_uring *uring, struct egress *egress);
void answers_free(struct answers *answers);

/* From now on, what comes to `place` within so many ns of *asked goes to `to`. */
int answers_listen(struct answers *answers, uint32_t place, const struct output *to, const uint64_t *asked,
		   uint64_t within);
/* Before another socket comes to the place, or none. */
int answers_end(struct answers *answers, uint32_t place);

/* Whether the completion was one of these operations. */
int answers_complete(struct answers *answers, const struct io_uring_cqe *cqe);

/* Receives and relays what is there, up to ANSWERS_AT_ONCE. `now` is of the real-time clock, in ns; `other` has to know
 * answers_complete(). Returns 0, or a negative errno of io_uring itself. */
int answers_take(struct answers *answers, uint64_t now, egress_other *other, void *context);

#endif
