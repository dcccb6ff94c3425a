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

int ring_lay_out(struct ring *ring, const struct ring_geometry *geometry)
{
	uint32_t per_block = geometry->frame_size ? geometry->block_size / geometry->frame_size : 0;

	if (per_block == 0 || geometry->block_count == 0)
		return -EINVAL;
	/* Or frame_at() would not divide exactly: index times reciprocal's error has to stay below 2^40. */
	if (per_block > 1U << 20 || geometry->block_count > 1U << 20 ||
	    (uint64_t)per_block * per_block * geometry->block_count > 1ULL << 40)
		return -EINVAL;
	ring->size = (size_t)geometry->block_size * geometry->block_count;
	ring->geometry = *geometry;
	ring->per_block = per_block;
	ring->reciprocal = ((1ULL << 40) + per_block - 1) / per_block;
	ring->frames = per_block * geometry->block_count;
	return 0;
}

int ring_map(struct ring *ring, int packet_socket, const struct ring_geometry *geometry, enum link_layer link)
{
	void *memory;
	int result = ring_lay_out(ring, geometry);

	if (result < 0)
		return result;
	memory = mmap(NULL, ring->size, PROT_READ | PROT_WRITE, MAP_SHARED, packet_socket, 0);
	if (memory == MAP_FAILED)
		return -errno;
	ring->memory = memory;
	ring->next = 0;
	ring->link = link;
	return 0;
}

void ring_unmap(struct ring *ring)
{
	if (ring->memory)
		munmap(ring->memory, ring->size);
	ring->memory = NULL;
}

static struct tpacket2_hdr *frame_at(const struct ring *ring, uint32_t ahead)
{
	uint32_t index = ring->next + ahead, block;

	if (index >= ring->frames)
		index -= ring->frames;
	/* Frames do not straddle blocks: what is left at the end of a block stays unused. */
	block = (uint32_t)(index * ring->reciprocal >> 40);
	return (struct tpacket2_hdr *)(void *)(ring->memory + (size_t)block * ring->geometry.block_size +
					       (size_t)(index - block * ring->per_block) * ring->geometry.frame_size);
}

/* When a worker died between the two stores of ring_release(), the frame before its position was dealt with
 * but not given back. In a full ring that frame is filled too, but then the one at the position is older. */
void ring_continue(struct ring *ring, uint64_t position)
{
	struct tpacket2_hdr *before, *at;

	if (position >= ring->frames)
		return;
	ring->next = (uint32_t)position;
	at = frame_at(ring, 0);
	before = frame_at(ring, ring->frames - 1);
	if (!(__atomic_load_n(&before->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
		return;
	if ((__atomic_load_n(&at->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER) &&
	    (at->tp_sec < before->tp_sec || (at->tp_sec == before->tp_sec && at->tp_nsec < before->tp_nsec)))
		return;
	__atomic_store_n(&before->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

int ring_peek(const struct ring *ring, uint32_t ahead, struct ring_frame *out)
{
	const struct tpacket2_hdr *header;
	const struct sockaddr_ll *from;
	struct virtio_net_hdr offload;
	uint32_t status;

	if (ahead >= ring->frames)
		return 0;
	header = frame_at(ring, ahead);
	status = __atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE);
	if (!(status & TP_STATUS_USER))
		return 0;
	from = (const struct sockaddr_ll *)(const void *)((const uint8_t *)header +
							  TPACKET_ALIGN(sizeof(struct tpacket2_hdr)));
	out->frame.data = (const uint8_t *)header + header->tp_mac;
	out->frame.captured = header->tp_snaplen;
	out->frame.length = header->tp_len;
	out->frame.link = ring->link;
	out->time = (uint64_t)header->tp_sec * 1000000000 + header->tp_nsec;
	out->foreign = from->sll_pkttype == PACKET_OTHERHOST;
	out->vlan = status & TP_STATUS_VLAN_VALID ? header->tp_vlan_tci & VLAN_IDENTIFIER : 0;
	memcpy(&offload, out->frame.data - sizeof(offload), sizeof(offload));
	out->segment = (offload.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_UDP_L4 ? offload.gso_size : 0;
	/* A super-frame's checksum is either still to be made or was checked segment by segment when it was merged. */
	out->frame.checksum_known = (status & (TP_STATUS_CSUM_VALID | TP_STATUS_CSUMNOTREADY)) != 0 ||
				    out->segment != 0;
	return 1;
}

void ring_release(struct ring *ring, uint32_t count, uint64_t *position)
{
	while (count--) {
		struct tpacket2_hdr *header = frame_at(ring, 0);

		if (++ring->next == ring->frames)
			ring->next = 0;
		__atomic_store_n(position, ring->next, __ATOMIC_RELAXED);
		__atomic_store_n(&header->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	}
}
