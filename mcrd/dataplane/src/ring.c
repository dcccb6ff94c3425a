/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ring.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/mman.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* linux/virtio_net.h, since Linux 6.2 */
#endif

enum { VLAN_IDENTIFIER = 0x0fff };

/* Frames that are looked for together. Their slots are far apart, and none is in a cache: so the misses overlap. */
enum { LOOK = 16, CACHE_LINE = 64 };

static struct ring_place place_of(const struct ring *ring, uint32_t index)
{
	uint32_t block = index / ring->per_block, in_block = index % ring->per_block;

	return (struct ring_place){
		.slot = ring->memory + (size_t)block * ring->geometry.block_size +
			(size_t)in_block * ring->geometry.frame_size,
		.index = index,
		.in_block = in_block,
	};
}

static inline void step(const struct ring *ring, struct ring_place *place)
{
	place->slot += ring->geometry.frame_size;
	if (++place->in_block < ring->per_block) {
		place->index++;
		return;
	}
	/* Frames do not straddle blocks: what is left at the end of a block stays unused. */
	*place = place_of(ring, place->index + 1 < ring->frames ? place->index + 1 : 0);
}

static struct tpacket2_hdr *header_of(const struct ring_place *place)
{
	return (struct tpacket2_hdr *)(void *)place->slot;
}

static int is_filled(const struct ring_place *place)
{
	return (__atomic_load_n(&header_of(place)->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER) != 0;
}

void ring_begin(struct ring *ring, uint32_t index)
{
	ring->unseen = ring->untaken = ring->unreleased = place_of(ring, index);
	ring->seen = 0;
	ring->taken = 0;
}

int ring_lay_out(struct ring *ring, const struct ring_geometry *geometry)
{
	uint32_t per_block = geometry->frame_size ? geometry->block_size / geometry->frame_size : 0;

	if (per_block == 0 || geometry->block_count == 0 || geometry->block_count > UINT32_MAX / per_block)
		return -EINVAL;
	ring->size = (size_t)geometry->block_size * geometry->block_count;
	ring->geometry = *geometry;
	ring->per_block = per_block;
	ring->frames = per_block * geometry->block_count;
	return 0;
}

int ring_map(struct ring *ring, int packet_socket, const struct ring_geometry *geometry, enum link_layer link)
{
	struct ring mapped = { .link = link };
	int result = ring_lay_out(&mapped, geometry);
	void *memory;

	if (result < 0)
		return result;
	memory = mmap(NULL, mapped.size, PROT_READ | PROT_WRITE, MAP_SHARED, packet_socket, 0);
	if (memory == MAP_FAILED)
		return -errno;
	mapped.memory = memory;
	ring_begin(&mapped, 0);
	*ring = mapped;
	return 0;
}

void ring_unmap(struct ring *ring)
{
	if (ring->memory)
		munmap(ring->memory, ring->size);
	*ring = (struct ring){ 0 };
}

/* When a worker died between the first and the last store of ring_release(), the frame before its position was dealt with
 * but not given back. In a full ring that frame is filled too, but then the one at the position is older. */
void ring_continue(struct ring *ring, uint64_t position)
{
	struct ring_place dealt_with;
	struct tpacket2_hdr *before, *at;

	if (position >= ring->frames)
		return;
	ring_begin(ring, (uint32_t)position);
	dealt_with = place_of(ring, (position ? (uint32_t)position : ring->frames) - 1);
	at = header_of(&ring->unseen);
	before = header_of(&dealt_with);
	if (!is_filled(&dealt_with))
		return;
	if (is_filled(&ring->unseen) &&
	    (at->tp_sec < before->tp_sec || (at->tp_sec == before->tp_sec && at->tp_nsec < before->tp_nsec)))
		return;
	__atomic_store_n(&before->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

uint32_t ring_look(struct ring *ring)
{
	uint32_t more = ring->frames - ring->seen - ring->taken, i;
	const struct tpacket2_hdr *header;

	for (i = 0; i < LOOK && i < more && is_filled(&ring->unseen); i++) {
		/* Of the frame itself: its headers, and the payload of a small one. */
		__builtin_prefetch(ring->unseen.slot + CACHE_LINE);
		__builtin_prefetch(ring->unseen.slot + 2 * CACHE_LINE);
		/* And its end, which tells it from others too (guard.c). To prefetch a wrong address does no harm. */
		header = header_of(&ring->unseen);
		__builtin_prefetch((const void *)((uintptr_t)ring->unseen.slot + header->tp_mac + header->tp_snaplen - 1));
		step(ring, &ring->unseen);
	}
	ring->seen += i;
	return ring->seen;
}

int ring_is_half_full(const struct ring *ring)
{
	struct ring_place there;

	if (ring->frames == 0)
		return 0;
	there = place_of(ring, (ring->untaken.index + ring->frames / 2) % ring->frames);
	return is_filled(&there);
}

void ring_read(const struct ring *ring, struct ring_frame *out)
{
	const struct tpacket2_hdr *header = header_of(&ring->untaken);
	const uint8_t *slot = ring->untaken.slot;
	const struct sockaddr_ll *from =
		(const struct sockaddr_ll *)(const void *)(slot + TPACKET_ALIGN(sizeof(struct tpacket2_hdr)));
	uint32_t status = header->tp_status, at = header->tp_mac, captured = header->tp_snaplen, outer = 0;
	struct virtio_net_hdr offload;

	/* The worker before this one could write here too: what no kernel wrote is a frame of nothing. */
	if (at < TPACKET2_HDRLEN || at > ring->geometry.frame_size || captured > ring->geometry.frame_size - at) {
		at = TPACKET2_HDRLEN;
		captured = 0;
	}
	/* What a tunnel without one peer has as its link header: the packet around the packet (Linux, ipgre_header()). */
	if (ring->link == LINK_IP && header->tp_net > at)
		outer = header->tp_net - at < captured ? header->tp_net - at : captured;
	out->frame.data = slot + at + outer;
	out->frame.captured = captured - outer;
	out->frame.length = header->tp_len > outer ? header->tp_len - outer : 0;
	out->frame.link = ring->link;
	out->time = (uint64_t)header->tp_sec * 1000000000 + header->tp_nsec;
	out->foreign = from->sll_pkttype == PACKET_OTHERHOST;
	out->vlan = status & TP_STATUS_VLAN_VALID ? header->tp_vlan_tci & VLAN_IDENTIFIER : 0;
	memcpy(&offload, slot + at - sizeof(offload), sizeof(offload));
	out->segment = (offload.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_UDP_L4 ? offload.gso_size : 0;
	/* A super-frame's checksum is either still to be made or was checked segment by segment when it was merged. */
	out->frame.checksum_known = (status & (TP_STATUS_CSUM_VALID | TP_STATUS_CSUMNOTREADY)) != 0 ||
				    out->segment != 0;
}

void ring_take(struct ring *ring)
{
	step(ring, &ring->untaken);
	ring->seen--;
	ring->taken++;
}

void ring_release(struct ring *ring, uint64_t *position, uint64_t *frames)
{
	for (; ring->taken > 0; ring->taken--) {
		struct tpacket2_hdr *header = header_of(&ring->unreleased);

		step(ring, &ring->unreleased);
		__atomic_store_n(position, ring->unreleased.index, __ATOMIC_RELAXED);
		__atomic_store_n(frames, *frames + 1, __ATOMIC_RELAXED);
		__atomic_store_n(&header->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	}
}

int64_t ring_throw_away(int packet_socket, const struct ring_geometry *geometry, uint64_t *position, uint64_t *frames,
			const struct ring_share *share)
{
	struct ring ring;
	struct ring_frame frame;
	int result = ring_map(&ring, packet_socket, geometry, LINK_ETHERNET);
	int64_t own = 0;

	if (result < 0)
		return result;
	if (*position >= ring.frames) {
		ring_unmap(&ring);
		return -EINVAL;
	}
	ring_continue(&ring, *position);
	for (; ring_ready(&ring); ring_take(&ring)) {
		if (ring.taken < share->dealt_with)
			continue;
		ring_read(&ring, &frame);
		own += frame.time < share->until && (frame.time >= share->since || (share->whole && !frame.segment));
	}
	ring_release(&ring, position, frames);
	ring_unmap(&ring);
	return own;
}

int64_t ring_waiting(void *memory, const struct ring_geometry *geometry, uint64_t position, uint64_t known)
{
	struct ring ring = { .memory = memory };
	struct ring_place place;
	int result = ring_lay_out(&ring, geometry);

	if (result < 0)
		return result;
	if (position >= ring.frames || known > ring.frames)
		return -EINVAL;
	if (known == 0)
		ring_continue(&ring, position);
	for (place = place_of(&ring, (uint32_t)((position + known) % ring.frames)); known < ring.frames; known++) {
		if (!is_filled(&place))
			break;
		step(&ring, &place);
	}
	return (int64_t)known;
}
