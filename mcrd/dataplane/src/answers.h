/* Answers: what comes by unicast to the port that an asker has on an output's side goes back to the asker.
 *
 * Such a port is a socket that is not connected, for anybody may answer. A poll says when something is there; then it is
 * received, and written to the socket that is connected to the asker.
 *
 * Where answers keep their source, each host that answers an asker has a socket of its own for that, which the supervisor
 * opens when its first answer is there. Until then the answer stays in the port: it is looked at, and taken when it goes.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_ANSWERS_H
#define MCRD_ANSWERS_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "egress.h"
#include "limit.h"

enum {
	ANSWERS_AT_ONCE = 32, /* received between two harvests: a flood of them holds up no frame */
	ANSWERS_BYTES = 65536,
	OVERHEARD_AT_ONCE = 64, /* times ANSWERS_AT_ONCE, of all sockets in turn: as many as a harvest has frames */
	ANSWERS_UNKNOWN = 64, /* questions to the supervisor that wait for an answer: as WANTED_AT_ONCE */
	/* With WANTED_A_SECOND it stays below what the supervisor takes of a worker (hostile.py); others count as new_member. */
	ANSWERS_UNKNOWN_A_SECOND = 900,
	ANSWERERS_AT_MOST = 256, /* of one port: others count as new_member */
};

/* After so many ns it is asked again for a socket that could not be had. */
#define ANSWERERS_AGAIN 10000000000ULL

/* What its operations are called by; numbers of egress.h are smaller. */
#define ANSWERS_POLL (1ULL << 62)
#define ANSWERS_RECEIVE (1ULL << 61)

/* A host that answers an asker, and its socket; MCRD_NOWHERE: it has none. */
struct answerer {
	struct answerer *next;
	struct endpoint who;
	struct output to;
	uint64_t refused; /* when it got none, in ns of the real-time clock */
};

struct answers_port {
	struct output to;      /* the asker's socket */
	const uint64_t *asked; /* when the asker asked last: the time of a frame, in ns */
	uint64_t within;       /* so much later an answer is late, in ns */
	uint32_t generation;   /* another one for each socket that was here */
	struct answerer *known;
	uint32_t known_count;
	uint8_t listens;
	uint8_t keeps;  /* answers keep their source */
	uint8_t held;   /* nothing is taken until the supervisor has answered: this port's question, or another one's */
	uint8_t asking; /* it was asked who the first answer is from */
	uint8_t in_line;
	uint8_t woken; /* out of the line, to ask */
	uint8_t polled;
	uint8_t queued;
	uint32_t overhears; /* one more than the slot of the rule that hears another host there; 0: none does */
};

/* Places of ports in their order. A place stands there once. */
struct answers_queue {
	uint32_t *places;
	uint32_t head, count;
};

struct answers {
	struct engine *engine;
	struct egress *egress;
	uint32_t places;
	struct answers_port *ports; /* by their places in the file table */
	struct answers_queue queue; /* where something is to be received */
	struct answers_queue heard; /* where something is, of another host */
	struct answers_queue line;  /* that ask when others do no more; those that ended or ask by now are passed over */
	uint32_t pending;
	uint32_t unknown[ANSWERS_UNKNOWN]; /* places that the supervisor is to hear of */
	uint32_t unknown_count;
	uint32_t asking, woken; /* ports */
	uint64_t now;           /* of the last take */
	struct limit asks;
	int results[ANSWERS_AT_ONCE];
	struct msghdr headers[ANSWERS_AT_ONCE];
	struct iovec vectors[ANSWERS_AT_ONCE];
	struct sockaddr_in6 names[ANSWERS_AT_ONCE]; /* who sent it, IPv4 as well */
	uint8_t *buffers;
};

/* As many places as the egress has. */
int answers_init(struct answers *answers, struct egress *egress);
void answers_free(struct answers *answers);

/* From now on, what comes to `place` within so many ns of *asked goes to `to`; or where `keeps`, to the socket of who
 * sends it. */
int answers_listen(struct answers *answers, uint32_t place, const struct output *to, const uint64_t *asked,
		   uint64_t within, int keeps);
/* A port whose first answer is from somebody without a socket; -1: none. The supervisor then says where that goes. */
int64_t answers_next_unknown(struct answers *answers);
/* What `who` sends to the port goes to that socket, MCRD_NOWHERE: nowhere. No family: nobody's answer was there. */
int answers_tell(struct answers *answers, uint32_t place, const struct endpoint *who, uint32_t socket);
/* Before another socket comes to the place, or none. */
int answers_end(struct answers *answers, uint32_t place);

/* Whether the completion was one of these operations. */
int answers_complete(struct answers *answers, const struct completion *done);

/* Receives and relays what is there, up to ANSWERS_AT_ONCE. `now` is of the real-time clock, in ns; `other` has to know
 * answers_complete(). Returns 0, or a negative errno of the engine itself. */
int answers_take(struct answers *answers, uint64_t now, egress_other *other, void *context);

/* From now on, what comes to `place` is what another host sends instead of the rule of that slot. */
int answers_overhear(struct answers *answers, uint32_t place, uint32_t slot);
/* It is told of with that slot instead. */
void answers_tell_of(struct answers *answers, uint32_t place, uint32_t slot);
/* Whether something may be there that has not been received. */
int answers_are_behind(const struct answers *answers, uint32_t place);
/* Receives it, and tells of each datagram: of all that was there, or of OVERHEARD_AT_ONCE times ANSWERS_AT_ONCE. `context`
 * is of both. As answers_take(). */
typedef void answers_told(void *context, uint32_t place, uint32_t slot, const uint8_t *data, uint32_t length);
int answers_hear(struct answers *answers, answers_told *told, egress_other *other, void *context);

#endif
