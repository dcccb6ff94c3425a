/* Packets that wait until their member has its sockets. They are copied out of the ring, whose slots go back to the kernel.
 *
 * The memory is made once. It is used in a circle, in the order in which packets came, and a place is free again when all
 * before it are. So the oldest packet is always known, and one whose time is over is always first. Each rule may have as
 * much as it leaves to the others: half of it when it is alone, a quarter beside one that has taken half.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_WAITING_H
#define MCRD_WAITING_H

#include <stdint.h>

#include "shared.h"

enum {
	WAITING_BYTES = 8 << 20,
	WAITING_LEAST = 1024, /* bytes that a packet takes: so there are at most 8192 in so many */
};

/* How long a packet waits. Long enough for a supervisor that is busy, and to ask for all that have room one by one. */
#define WAITING_NS 5000000000ULL

struct waiting_queue;

struct waiting_packet {
	struct waiting_packet *next; /* of the same queue */
	struct waiting_queue *queue; /* NULL: it does not wait any more */
	uint64_t since;              /* in ns, by the clock of those who ask */
	union {
		uint64_t skipping;           /* outputs that do not send it, by the numbers of their choices */
		struct waiting_packet *like; /* one that may have the same content, see backlog.c */
	};
	uint64_t number;             /* where it stands in a stream, see order.h; or the hash of its content, */
	uint32_t span;               /* as there; whether others are `like` it, */
	uint32_t left;               /* and whether it has left */
	uint32_t size;               /* of its place */
	uint32_t rule;               /* the slot of the rule that has taken the place */
	uint32_t length;
	uint8_t payload[];
};

/* The packets of one member. All zero: none. */
struct waiting_queue {
	struct waiting_packet *first, *last;
};

struct waiting {
	uint8_t *memory;
	uint32_t bytes;        /* of it */
	uint32_t oldest, next; /* where places begin */
	uint32_t used;         /* bytes */
	uint32_t taken[MCRD_RULE_SLOTS]; /* bytes of each rule; those of packets that have gone too, until their place is free */
};

int waiting_init(struct waiting *waiting, uint32_t bytes); /* of memory, see WAITING_BYTES; 0 or -ENOMEM */
void waiting_free(struct waiting *waiting);

/* Has it room for another packet of the rule? */
int waiting_has_room(const struct waiting *waiting, uint32_t rule, uint32_t length);

/* Has it room for another packet of that length, whosever? */
int waiting_fits(const struct waiting *waiting, uint32_t length);

/* Only where there is room. `payload` NULL: the caller writes it. */
struct waiting_packet *waiting_add(struct waiting *waiting, struct waiting_queue *queue, uint32_t rule,
				   const uint8_t *payload, uint32_t length, uint64_t now);

/* The first packet of the queue waits no more. What it holds stays until something is added. */
void waiting_end(struct waiting *waiting, struct waiting_queue *queue);

/* The oldest packet, which is the first of its queue; NULL: none waits. */
struct waiting_packet *waiting_oldest(const struct waiting *waiting);

#endif
