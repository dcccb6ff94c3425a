/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "interface.h"
#include "counters.h"

struct ring *interface_next(struct interface *interfaces, uint32_t interface_count, struct interface **whose,
			    struct ring_frame *frame)
{
	struct ring *found = NULL, *ring;
	struct ring_frame other;
	uint32_t i;

	*whose = interfaces;
	if (interface_count == 1)
		return ring_next(&interfaces->rings[0], &interfaces->rings[1], frame);
	for (i = 0; i < interface_count; i++) {
		ring = ring_next(&interfaces[i].rings[0], &interfaces[i].rings[1], &other);
		if (!ring || (found && other.time >= frame->time))
			continue;
		found = ring;
		*whose = &interfaces[i];
		*frame = other;
	}
	return found;
}

void interface_release(struct interface *interface)
{
	int i;

	for (i = 0; i < MCRD_RINGS; i++)
		ring_release(&interface->rings[i], &interface->positions[i], &interface->counters->frames[i]);
}

int interface_is_half_full(const struct interface *interface)
{
	return ring_is_half_full(&interface->rings[0]) || ring_is_half_full(&interface->rings[1]);
}
