/* Ingress: the packet ring, TPACKET_V2 (linux/if_packet.h; Documentation/networking/packet_mmap.rst), with
 * PACKET_VNET_HDR. The supervisor made it; the worker has only this mapping.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_RING_H
#define MCRD_RING_H

#include "packet.h"

/* A slot of the ring, and where it stands. */
struct ring_place {
	uint8_t *slot;
	uint32_t index;
	uint32_t in_block;
};

struct ring {
	uint8_t *memory;
	size_t size;
	struct ring_geometry geometry;
	uint32_t per_block;
	uint32_t frames;
	enum link_layer link;
	/* Frames are seen to be filled, then taken, then released. */
	struct ring_place unseen, untaken, unreleased;
	uint32_t seen;  /* and not taken */
	uint32_t taken; /* and not released */
};

struct ring_frame {
	struct frame frame;
	uint16_t vlan;     /* VLAN identifier of the tag that the kernel took off; 0: none, or priority only */
	uint64_t time;     /* of its arrival, nanoseconds of the real-time clock */
	uint16_t segment;  /* payload bytes of each datagram of a super-frame; 0: one datagram */
	int foreign;       /* sent to another host's hardware address */
};

/* The parts of ring_map() that need no socket; and where the next frame will be. */
int ring_lay_out(struct ring *ring, const struct ring_geometry *geometry);
void ring_begin(struct ring *ring, uint32_t index);

int ring_map(struct ring *ring, int packet_socket, const struct ring_geometry *geometry, enum link_layer link);
void ring_unmap(struct ring *ring);

/* Goes on where the last worker on this ring stood. */
void ring_continue(struct ring *ring, uint64_t position);

/* Looks further into the ring, as far as it is filled; returns how many frames are seen and not taken. */
uint32_t ring_look(struct ring *ring);

/* Is there a frame to take? */
static inline int ring_ready(struct ring *ring)
{
	return ring->seen > 0 || ring_look(ring) > 0;
}

/* Is half of the ring filled with what is not taken? */
int ring_is_half_full(const struct ring *ring);

/* What the next frame holds; only after ring_ready() said that there is one. */
void ring_read(const struct ring *ring, struct ring_frame *out);

/* Goes on to the next frame; the one before stays where it is. */
void ring_take(struct ring *ring);

/* Gives all that was taken back to the kernel; moves `position` with each, and counts it in `frames`. */
void ring_release(struct ring *ring, uint64_t *position, uint64_t *frames);

/* Which ring the next frame of all is in; NULL: there is none. A flow has frames in both, and its order is that of
 * their times. */
static inline struct ring *ring_next(struct ring *small, struct ring *large, struct ring_frame *frame)
{
	int found = ring_ready(small);
	struct ring_frame other;

	if (!ring_ready(large)) {
		if (!found)
			return NULL;
		ring_read(small, frame);
		return small;
	}
	ring_read(large, &other);
	/* What came before the large one is there by now, even if it was not when we looked. */
	if (found || ring_ready(small)) {
		ring_read(small, frame);
		if (frame->time <= other.time)
			return small;
	}
	*frame = other;
	return large;
}

#endif
