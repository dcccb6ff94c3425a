/* Ingress: the packet ring, TPACKET_V2 (linux/if_packet.h; Documentation/networking/packet_mmap.rst), with
 * PACKET_VNET_HDR. The supervisor made it; the worker has only this mapping.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_RING_H
#define MCRD_RING_H

#include "packet.h"

struct ring {
	uint8_t *memory;
	size_t size;
	struct ring_geometry geometry;
	uint32_t per_block;
	uint64_t reciprocal; /* 2^40 / per_block, rounded up: two divisions for every frame would show */
	uint32_t frames;
	uint32_t next; /* the frame that the kernel fills next, as far as we know */
	enum link_layer link;
};

struct ring_frame {
	struct frame frame;
	uint16_t vlan;     /* VLAN identifier of the tag that the kernel took off; 0: none, or priority only */
	uint64_t time;     /* of its arrival, nanoseconds of the real-time clock */
	uint16_t segment;  /* payload bytes of each datagram of a super-frame; 0: one datagram */
	int foreign;       /* sent to another host's hardware address */
};

/* The part of ring_map() that needs no socket. */
int ring_lay_out(struct ring *ring, const struct ring_geometry *geometry);

int ring_map(struct ring *ring, int packet_socket, const struct ring_geometry *geometry, enum link_layer link);
void ring_unmap(struct ring *ring);

/* Goes on where the last worker on this ring stood. */
void ring_continue(struct ring *ring, uint64_t position);

/* Is the frame `ahead` places after the next one filled? Then what it holds. */
int ring_peek(const struct ring *ring, uint32_t ahead, struct ring_frame *out);

/* Gives the next `count` frames back to the kernel, and moves `position` with each. */
void ring_release(struct ring *ring, uint32_t count, uint64_t *position);

#endif
