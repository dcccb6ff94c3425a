/* The interfaces that a worker reads.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_INTERFACE_H
#define MCRD_INTERFACE_H

#include "ring.h"

struct interface {
	struct ring rings[MCRD_RINGS];
	const struct interface_settings *settings;
	struct interface_counters *counters;
	uint64_t *positions;
	uint64_t window; /* of the meter */
};

/* Which ring the next frame of all is in, as ring_next(); and whose it is. */
struct ring *interface_next(struct interface *interfaces, uint32_t interface_count, struct interface **whose,
			    struct ring_frame *frame);

/* Gives all that was taken back to the kernel. */
void interface_release(struct interface *interface);

/* Is half of one of its rings filled with what is not taken? */
int interface_is_half_full(const struct interface *interface);

#endif
