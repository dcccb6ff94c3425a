/* A frame that has arrived, and what is known of it before it is relayed.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_ARRIVAL_H
#define MCRD_ARRIVAL_H

#include "worker.h"

struct arrival {
	struct ring *ring; /* NULL: there is no frame */
	struct interface *here;
	struct ring_frame frame;
	struct packet packet;
	enum verdict verdict;
	/* The rest, of a datagram only. */
	enum drop drop;
	struct rule *rule;       /* NULL: none takes it */
	struct merge_name name;  /* of its next datagram, where the rule is a leg */
	uint32_t size;           /* bytes of each datagram that it stands for; the last one may be shorter */
};

/* Looks at the next frame, which is not taken. */
void arrival_look(struct worker *worker, struct arrival *arrival);

/* Names the datagram that begins `at` bytes into the payload. */
void arrival_name(const struct worker *worker, struct arrival *arrival, uint32_t at);

#endif
