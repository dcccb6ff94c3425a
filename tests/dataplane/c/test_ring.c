/* ring.c over plain memory that is filled as the kernel fills a TPACKET_V2 ring with PACKET_VNET_HDR:
 * struct tpacket2_hdr, struct sockaddr_ll, a gap, struct virtio_net_hdr, the frame.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

/* Slots of 608 bytes leave 448 of each block unused. */
enum { BLOCK = 4096, BLOCKS = 3, SLOT = 608, PER_BLOCK = BLOCK / SLOT, SLOTS = BLOCKS * PER_BLOCK, MAC = 90 };

enum { UNTOUCHED = 0xa5 };

static const struct ring_geometry geometry = { .block_size = BLOCK, .block_count = BLOCKS, .frame_size = SLOT };

static struct ring ring_of(uint8_t *memory, uint32_t next)
{
	struct ring ring = { .memory = memory, .link = LINK_ETHERNET };

	CHECK_EQUAL(ring_lay_out(&ring, &geometry), 0);
	ring_begin(&ring, next);
	return ring;
}

/* Takes the next frame, if there is one. */
static int take(struct ring *ring, struct ring_frame *frame)
{
	if (!ring_ready(ring))
		return 0;
	ring_read(ring, frame);
	ring_take(ring);
	return 1;
}

static uint8_t *new_memory(void)
{
	uint8_t *memory = check_allocate((size_t)BLOCK * BLOCKS);
	uint32_t i;

	memset(memory, UNTOUCHED, (size_t)BLOCK * BLOCKS);
	for (i = 0; i < SLOTS; i++)
		memset(memory + i / PER_BLOCK * BLOCK + i % PER_BLOCK * SLOT, 0, SLOT);
	return memory;
}

/* The kernel's side, with an arithmetic of its own. */
static struct tpacket2_hdr *slot_at(uint8_t *memory, uint32_t index)
{
	uint8_t *block = memory;

	while (index >= PER_BLOCK) {
		block += BLOCK;
		index -= PER_BLOCK;
	}
	while (index--)
		block += SLOT;
	return (struct tpacket2_hdr *)(void *)block;
}

struct filled {
	uint32_t status; /* besides TP_STATUS_USER */
	uint16_t tag;
	uint8_t packet_type;
	uint8_t gso_type;
	uint16_t gso_size;
	uint32_t length, captured;
	uint32_t serial;
	uint8_t header; /* of the link */
};

static void fill(uint8_t *memory, uint32_t index, const struct filled *what)
{
	struct tpacket2_hdr *header = slot_at(memory, index);
	uint8_t *slot = (uint8_t *)header;
	struct sockaddr_ll from = { .sll_family = 17, .sll_pkttype = what->packet_type };
	struct virtio_net_hdr offload = { .gso_type = what->gso_type, .gso_size = what->gso_size };

	CHECK_EQUAL(header->tp_status, TP_STATUS_KERNEL);
	header->tp_len = what->length;
	header->tp_snaplen = what->captured;
	header->tp_mac = MAC;
	header->tp_net = MAC + what->header;
	header->tp_vlan_tci = what->tag;
	memcpy(slot + 32, &from, sizeof(from));
	memcpy(slot + MAC - 10, &offload, 10);
	memcpy(slot + MAC, &what->serial, 4);
	__atomic_store_n(&header->tp_status, TP_STATUS_USER | what->status, __ATOMIC_RELEASE);
}

static void test_layout(void)
{
	check_about("layout");
	/* What fill() takes for granted: linux/if_packet.h, linux/virtio_net.h. */
	CHECK_EQUAL(TPACKET_ALIGN(sizeof(struct tpacket2_hdr)), 32);
	CHECK_EQUAL(sizeof(struct virtio_net_hdr), 10);
	CHECK_EQUAL(TPACKET2_HDRLEN, 32 + sizeof(struct sockaddr_ll));
}

static void test_fields(void)
{
	static const struct {
		const char *name;
		struct filled in;
		uint16_t vlan, segment;
		int foreign, checksum_known;
	} cases[] = {
		{ "plain", { .length = 60, .captured = 60 }, 0, 0, 0, 0 },
		{ "cut", { .length = 9000, .captured = 518 }, 0, 0, 0, 0 },
		{ "group", { .packet_type = PACKET_MULTICAST, .length = 60, .captured = 60 }, 0, 0, 0, 0 },
		{ "another host's", { .packet_type = PACKET_OTHERHOST, .length = 60, .captured = 60 }, 0, 0, 1, 0 },
		{ "tag", { .status = TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID, .tag = 100 }, 100, 0, 0, 0 },
		{ "tag with priority", { .status = TP_STATUS_VLAN_VALID, .tag = 0xf064 }, 100, 0, 0, 0 },
		{ "priority alone", { .status = TP_STATUS_VLAN_VALID, .tag = 0xe000 }, 0, 0, 0, 0 },
		{ "no tag, whatever the field says", { .tag = 100 }, 0, 0, 0, 0 },
		{ "summed by hardware", { .status = TP_STATUS_CSUM_VALID }, 0, 0, 0, 1 },
		{ "not summed yet", { .status = TP_STATUS_CSUMNOTREADY }, 0, 0, 0, 1 },
		{ "after losses", { .status = TP_STATUS_LOSING }, 0, 0, 0, 0 },
		{ "copied", { .status = TP_STATUS_COPY }, 0, 0, 0, 0 },
		{ "with a time", { .status = TP_STATUS_TS_SOFTWARE }, 0, 0, 0, 0 },
		{ "super-frame", { .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4, .gso_size = 100 }, 0, 100, 0, 1 },
		{ "super-frame not summed yet",
		  { .status = TP_STATUS_CSUMNOTREADY, .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4, .gso_size = 1472 },
		  0, 1472, 0, 1 },
		{ "super-frame with ECN",
		  { .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4 | VIRTIO_NET_HDR_GSO_ECN, .gso_size = 7 }, 0, 7, 0, 1 },
		{ "TCP's", { .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1448 }, 0, 0, 0, 0 },
		{ "no super-frame, whatever the size says", { .gso_size = 1448 }, 0, 0, 0, 0 },
	};
	uint8_t *memory = new_memory();
	struct ring ring = ring_of(memory, 0);
	uint64_t position = 99, frames = 0;
	uint32_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ring_frame frame;
		uint32_t index = ring.untaken.index;

		check_about(cases[i].name);
		memset(&frame, UNTOUCHED, sizeof(frame));
		CHECK(!ring_ready(&ring));
		fill(memory, index, &cases[i].in);
		ring.link = i % 2 ? LINK_IP : LINK_ETHERNET;
		CHECK(take(&ring, &frame));
		CHECK(frame.frame.data == (const uint8_t *)slot_at(memory, index) + MAC);
		CHECK_EQUAL(frame.frame.captured, cases[i].in.captured);
		CHECK_EQUAL(frame.frame.length, cases[i].in.length);
		CHECK_EQUAL(frame.frame.link, ring.link);
		CHECK_EQUAL(frame.vlan, cases[i].vlan);
		CHECK_EQUAL(frame.segment, cases[i].segment);
		CHECK_EQUAL(frame.foreign != 0, cases[i].foreign);
		CHECK_EQUAL(frame.frame.checksum_known != 0, cases[i].checksum_known);
		ring_release(&ring, &position, &frames);
		CHECK_EQUAL(slot_at(memory, index)->tp_status, TP_STATUS_KERNEL);
		CHECK_EQUAL(position, (index + 1) % SLOTS);
	}
	free(memory);
}

/* Of a tunnel, the packet is what follows its own header; of Ethernet, the header is read too. */
static void test_link_header(void)
{
	static const struct {
		const char *name;
		enum link_layer link;
		struct filled in;
		uint32_t at, captured, length;
	} cases[] = {
		{ "Ethernet", LINK_ETHERNET, { .header = 14, .length = 60, .captured = 60 }, 0, 60, 60 },
		{ "GRE with one peer", LINK_IP, { .length = 60, .captured = 60 }, 0, 60, 60 },
		{ "GRE with any", LINK_IP, { .header = 28, .length = 88, .captured = 88 }, 28, 60, 60 },
		{ "cut", LINK_IP, { .header = 28, .length = 1500, .captured = 100 }, 28, 72, 1472 },
		{ "less than the header", LINK_IP, { .header = 28, .length = 20, .captured = 20 }, 20, 0, 0 },
		{ "cut within the header", LINK_IP, { .header = 28, .length = 60, .captured = 20 }, 20, 0, 40 },
	};
	uint8_t *memory = new_memory();
	struct ring ring = ring_of(memory, 0);
	uint64_t position = 0, frames = 0;
	uint32_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ring_frame frame;
		uint32_t index = ring.untaken.index;

		check_about(cases[i].name);
		fill(memory, index, &cases[i].in);
		ring.link = cases[i].link;
		CHECK(take(&ring, &frame));
		CHECK(frame.frame.data == (const uint8_t *)slot_at(memory, index) + MAC + cases[i].at);
		CHECK_EQUAL(frame.frame.captured, cases[i].captured);
		CHECK_EQUAL(frame.frame.length, cases[i].length);
		ring_release(&ring, &position, &frames);
	}
	free(memory);
}

/* The worker before this one could write into the ring: what is no place within a slot is a frame of nothing. */
static void test_places_that_no_kernel_wrote(void)
{
	enum { FIRST = TPACKET2_HDRLEN };
	static const struct {
		const char *name;
		uint16_t at;
		uint32_t captured;
		int sense;
	} cases[] = {
		{ "as the kernel", MAC, 60, 1 },
		{ "at the first place", FIRST, 1, 1 },
		{ "in the headers", FIRST - 1, 1, 0 },
		{ "at 0", 0, 60, 0 },
		{ "up to the end", MAC, SLOT - MAC, 1 },
		{ "one byte more", MAC, SLOT - MAC + 1, 0 },
		{ "all of the slot", MAC, SLOT, 0 },
		{ "more than there is", MAC, UINT32_MAX, 0 },
		{ "nothing at the end", SLOT, 0, 1 },
		{ "a byte at the end", SLOT, 1, 0 },
		{ "nothing behind the end", SLOT + 1, 0, 0 },
		{ "far behind the end", UINT16_MAX, 60, 0 },
		{ "all 32 bits, from there", SLOT + 1, UINT32_MAX, 0 },
	};
	uint8_t *memory = new_memory();
	struct ring ring = ring_of(memory, 0);
	uint64_t position = 0, frames = 0;
	uint32_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t index = ring.untaken.index;
		struct tpacket2_hdr *header = slot_at(memory, index);
		struct ring_frame frame;

		check_about(cases[i].name);
		fill(memory, index, &(struct filled){ .length = 1500 });
		header->tp_mac = header->tp_net = cases[i].at;
		header->tp_snaplen = cases[i].captured;
		CHECK(take(&ring, &frame));
		CHECK(frame.frame.data == (const uint8_t *)header + (cases[i].sense ? cases[i].at : FIRST));
		CHECK_EQUAL(frame.frame.captured, cases[i].sense ? cases[i].captured : 0);
		ring_release(&ring, &position, &frames);
	}
	free(memory);
}

/* Of two rings the earlier frame is next, and of two with one time that of the first ring. */
static void test_two_rings(void)
{
	static const struct {
		const char *name;
		uint32_t small, large; /* their times; 0: there is none */
		int first, second; /* which ring is next; -1: none */
	} cases[] = {
		{ "neither", 0, 0, -1, -1 },       { "the first alone", 5, 0, 0, -1 },
		{ "the second alone", 0, 5, 1, -1 }, { "the first is earlier", 5, 6, 0, 1 },
		{ "the second is earlier", 6, 5, 1, 0 }, { "at one time", 5, 5, 0, 1 },
	};
	uint32_t i, j;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t *memory[2] = { new_memory(), new_memory() };
		struct ring rings[2] = { ring_of(memory[0], 0), ring_of(memory[1], 0) };
		const uint32_t times[2] = { cases[i].small, cases[i].large };
		const int next[2] = { cases[i].first, cases[i].second };

		check_about(cases[i].name);
		for (j = 0; j < 2; j++)
			if (times[j]) {
				slot_at(memory[j], 0)->tp_nsec = times[j];
				fill(memory[j], 0, &(struct filled){ .length = 60, .captured = 60, .serial = j });
			}
		for (j = 0; j < 2; j++) {
			struct ring_frame frame = { 0 };
			struct ring *found = ring_next(&rings[0], &rings[1], &frame);

			CHECK(found == (next[j] < 0 ? NULL : &rings[next[j]]));
			if (!found)
				break;
			CHECK_EQUAL(frame.time, times[next[j]]);
			CHECK_EQUAL(frame.frame.data[0], next[j]);
			ring_take(found);
		}
		free(memory[0]);
		free(memory[1]);
	}
}

static void test_half_full(void)
{
	uint8_t *memory = new_memory();
	struct ring none = { 0 }, ring = ring_of(memory, 0);
	uint64_t position = 0, frames = 0;
	struct ring_frame frame;
	uint32_t i, half = SLOTS / 2;

	check_about("half full");
	CHECK(!ring_is_half_full(&none));
	for (i = 0; i <= half; i++) {
		CHECK(!ring_is_half_full(&ring));
		fill(memory, i, &(struct filled){ .length = 60 });
	}
	CHECK(ring_is_half_full(&ring));
	CHECK(take(&ring, &frame));
	CHECK(!ring_is_half_full(&ring));
	while (take(&ring, &frame))
		;
	ring_release(&ring, &position, &frames);
	/* Across the end of the ring. */
	for (i = 0; i <= half; i++) {
		CHECK(!ring_is_half_full(&ring));
		fill(memory, (half + 1 + i) % SLOTS, &(struct filled){ .length = 60 });
	}
	CHECK(ring_is_half_full(&ring));
	free(memory);
}

/* A producer that stops at the first slot that is taken, as the kernel does, and a consumer. */
static void test_wraparound(void)
{
	uint8_t *memory = new_memory();
	struct ring ring = ring_of(memory, 0);
	uint64_t random = 11, position = 0, frames = 0;
	uint32_t made = 0, taken = 0, released = 0, round, i, full = 0;

	check_about("wraparound");
	for (round = 0; round < 50000; round++) {
		uint32_t more = check_random(&random) % (SLOTS + 4), most = check_random(&random) % (SLOTS + 4), n;
		struct ring_frame frame;

		while (more-- && slot_at(memory, made % SLOTS)->tp_status == TP_STATUS_KERNEL) {
			struct filled filled = { .length = 64, .captured = 64, .serial = made };

			fill(memory, made % SLOTS, &filled);
			made++;
		}
		full += made - released == SLOTS;
		for (n = 0; n < most && take(&ring, &frame); n++) {
			uint32_t serial;

			memcpy(&serial, frame.frame.data, 4);
			CHECK_EQUAL(serial, taken);
			taken++;
		}
		CHECK(n == most || taken == made);
		switch (check_random(&random) % 4) {
		case 0: /* more is taken before any of it is released */
			break;
		case 1: /* the worker dies, and the next one goes on where this one had released */
			ring = ring_of(memory, (uint32_t)position);
			taken = released;
			break;
		default:
			ring_release(&ring, &position, &frames);
			released = taken;
			CHECK_EQUAL(position, released % SLOTS);
			CHECK_EQUAL(frames, released);
		}
	}
	CHECK(full > 100);
	CHECK(made > 100000);
	for (i = 0; i < BLOCK * BLOCKS; i++)
		if (i % BLOCK >= PER_BLOCK * SLOT)
			CHECK_EQUAL(memory[i], UNTOUCHED);
	free(memory);
}

static void test_no_further_than_the_ring(void)
{
	uint8_t *memory = new_memory();
	struct ring ring = ring_of(memory, 5);
	struct ring_frame frame;
	uint64_t position = 99, frames = 0;
	uint32_t i;

	check_about("ahead");
	for (i = 0; i < SLOTS; i++) {
		struct filled filled = { .serial = i };

		fill(memory, i, &filled);
	}
	for (i = 0; i < SLOTS; i++)
		CHECK(take(&ring, &frame));
	CHECK(!take(&ring, &frame));
	CHECK(!take(&ring, &frame));
	ring_release(&ring, &position, &frames);
	CHECK_EQUAL(position, 5);
	CHECK(!take(&ring, &frame));
	free(memory);
}

/* A worker that died had dealt with the slot before its position, and may have been about to give it back. */
static void test_continue(void)
{
	enum { EMPTY, OLD, NEW, KINDS };
	static const uint32_t positions[] = { 0, 1, PER_BLOCK, SLOTS - 1 };
	uint32_t i, before, at;

	for (i = 0; i < sizeof(positions) / sizeof(positions[0]); i++)
		for (before = EMPTY; before < KINDS; before++)
			for (at = EMPTY; at < KINDS; at++) {
				uint8_t *memory = new_memory();
				struct ring ring = ring_of(memory, 3);
				uint32_t here = positions[i], there = (here + SLOTS - 1) % SLOTS;
				int given_back = before != EMPTY && !(before == NEW && at == OLD);

				check_about("continue");
				if (before != EMPTY) {
					slot_at(memory, there)->tp_nsec = before;
					fill(memory, there, &(struct filled){ .serial = 1 });
				}
				if (at != EMPTY) {
					slot_at(memory, here)->tp_nsec = at;
					fill(memory, here, &(struct filled){ .serial = 2 });
				}
				ring_continue(&ring, here);
				CHECK_EQUAL(ring.untaken.index, here);
				CHECK_EQUAL(slot_at(memory, there)->tp_status & TP_STATUS_USER,
					    before != EMPTY && !given_back);
				CHECK_EQUAL(slot_at(memory, here)->tp_status & TP_STATUS_USER, at != EMPTY);
				CHECK_EQUAL(ring_ready(&ring), at != EMPTY);
				free(memory);
			}
}

/* A worker that was taken over may have left any number. */
static void test_a_position_beyond_the_ring(void)
{
	static const uint64_t positions[] = { SLOTS, SLOTS + 1, UINT32_MAX, UINT64_MAX };
	uint8_t *memory = new_memory();
	struct ring ring = ring_of(memory, 3);
	uint32_t i;

	check_about("beyond the ring");
	for (i = 0; i < sizeof(positions) / sizeof(positions[0]); i++) {
		ring_continue(&ring, positions[i]);
		CHECK_EQUAL(ring.untaken.index, 3);
	}
	free(memory);
}

static void test_map(void)
{
	static const struct ring_geometry senseless[] = {
		{ BLOCK, BLOCKS, 0 },
		{ BLOCK, 0, SLOT },
		{ SLOT - 1, BLOCKS, SLOT },
		{ 0, 0, 0 },
		{ 0x80000000, 0x80000000, 64 },
	};
	int memory = memfd_create("ring", MFD_CLOEXEC);
	uint64_t position = 0, frames = 0;
	struct ring ring = { 0 };
	struct ring_frame frame;
	uint32_t i;

	check_about("map");
	CHECK(memory >= 0 && ftruncate(memory, BLOCK * BLOCKS) == 0);
	for (i = 0; i < sizeof(senseless) / sizeof(senseless[0]); i++)
		CHECK_EQUAL(ring_map(&ring, memory, &senseless[i], LINK_ETHERNET), -EINVAL);
	CHECK_EQUAL(ring_map(&ring, -1, &geometry, LINK_ETHERNET), -EBADF);
	ring_unmap(&ring); /* of nothing */
	CHECK_EQUAL(ring_map(&ring, memory, &geometry, LINK_IP), 0);
	close(memory); /* the mapping stays */
	CHECK_EQUAL(ring.frames, SLOTS);
	CHECK_EQUAL(ring.size, BLOCK * BLOCKS);
	CHECK(!ring_ready(&ring));
	fill(ring.memory, 0, &(struct filled){ .length = 1, .captured = 1 });
	CHECK(take(&ring, &frame));
	CHECK_EQUAL(frame.frame.link, LINK_IP);
	ring_release(&ring, &position, &frames);
	CHECK_EQUAL(position, 1);
	ring_unmap(&ring);
	CHECK(!ring_ready(&ring));
	ring_unmap(&ring); /* twice */
}

int main(void)
{
	test_layout();
	test_fields();
	test_link_header();
	test_places_that_no_kernel_wrote();
	test_two_rings();
	test_half_full();
	test_wraparound();
	test_no_further_than_the_ring();
	test_continue();
	test_a_position_beyond_the_ring();
	test_map();
	return check_result();
}
