/* Frames as they come from a network, built from what they shall hold.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdint.h>
#include <string.h>

#include "packet.h"

enum { FRAME_ROOM = 4096, FRAME_EXTENSIONS = 20, FRAME_TAGS = 3 };

enum { SOURCE_PORT = 40000, DESTINATION_PORT = 5000 };

/* How the UDP checksum is made. */
enum summing { SUM_RIGHT, SUM_NONE, SUM_WRONG };

/* An extension header: `size` in bytes, all of it. */
struct extension {
	uint8_t type;
	uint16_t size;
	uint16_t fragment; /* of a fragment header: offset and flags */
	uint8_t segments_left; /* of a routing header */
};

struct shape {
	enum link_layer link;
	uint32_t tags;
	uint16_t tag[FRAME_TAGS]; /* outermost first */
	uint8_t family;
	uint8_t protocol; /* 0: UDP */
	uint8_t options; /* IPv4: 32-bit words of them */
	uint16_t fragment; /* IPv4: flags and offset */
	uint32_t extensions;
	struct extension extension[FRAME_EXTENSIONS];
	uint32_t payload;
	uint32_t surplus; /* bytes of the IP payload behind the UDP datagram */
	uint32_t padding; /* bytes of the frame behind the IP packet */
	enum summing summing;
};

struct built {
	uint8_t data[FRAME_ROOM];
	uint32_t network;                  /* where the IP header is */
	uint32_t first[FRAME_EXTENSIONS];  /* where each extension header is */
	uint32_t transport;
	uint32_t datagram_end;
	uint32_t network_end;
	uint32_t length;
};

static const uint8_t source4[] = { 10, 0, 0, 5 }, destination4[] = { 239, 1, 1, 1 };
static const uint8_t source6[] = { 0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 };
static const uint8_t destination6[] = { 0xff, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34 };

static inline void set16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static inline uint32_t look16(const uint8_t *at)
{
	return (uint32_t)at[0] * 256 + at[1];
}

/* RFC 1071, the plain way: 16 bits at a time, carry at once. */
static inline uint32_t plain_sum(const uint8_t *data, uint32_t length, uint32_t total)
{
	uint32_t i;

	for (i = 0; i < length; i++) {
		total += i % 2 ? data[i] : (uint32_t)data[i] << 8;
		if (total > 0xffff)
			total -= 0xffff;
	}
	return total;
}

static inline uint32_t plain_udp_sum(uint8_t family, const uint8_t *source, const uint8_t *destination,
				     const uint8_t *udp, uint32_t length)
{
	uint8_t pseudo[8] = { 0, 0, (uint8_t)(length >> 8), (uint8_t)length, 0, 0, 0, 17 };
	uint32_t size = family == 6 ? 16 : 4, total;

	total = plain_sum(source, size, 0);
	total = plain_sum(destination, size, total);
	total = plain_sum(pseudo, sizeof(pseudo), total);
	return plain_sum(udp, length, total);
}

static inline void sum_ipv4(uint8_t *ip)
{
	set16(ip + 10, 0);
	set16(ip + 10, 0xffff - plain_sum(ip, (uint32_t)(ip[0] & 15) * 4, 0));
}

static inline void sum_udp(struct built *built, uint8_t family)
{
	uint8_t *udp = built->data + built->transport, *ip = built->data + built->network;
	uint32_t sum;

	set16(udp + 6, 0);
	sum = 0xffff - plain_udp_sum(family, ip + (family == 6 ? 8 : 12), ip + (family == 6 ? 24 : 16), udp,
				     built->datagram_end - built->transport);
	set16(udp + 6, sum ? sum : 0xffff); /* RFC 768: zero means that there is none */
}

static inline uint32_t build_link(const struct shape *shape, struct built *built)
{
	static const uint8_t addresses[] = { 1, 0, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 1 };
	uint32_t at = sizeof(addresses), i;

	if (shape->link == LINK_IP)
		return 0;
	memcpy(built->data, addresses, sizeof(addresses));
	for (i = 0; i < shape->tags; i++) {
		set16(built->data + at, i == 0 && shape->tags > 1 ? 0x88a8 : 0x8100);
		set16(built->data + at + 2, shape->tag[i]);
		at += 4;
	}
	set16(built->data + at, shape->family == 6 ? 0x86dd : 0x0800);
	return at + 2;
}

static inline uint32_t build_ipv4(const struct shape *shape, struct built *built)
{
	uint8_t *ip = built->data + built->network;
	uint32_t header = 20 + 4 * (uint32_t)shape->options;

	ip[0] = (uint8_t)(0x40 | header / 4);
	set16(ip + 4, 0x1234);
	set16(ip + 6, shape->fragment);
	ip[8] = 8;
	ip[9] = shape->protocol ? shape->protocol : 17;
	memcpy(ip + 12, source4, 4);
	memcpy(ip + 16, destination4, 4);
	memset(ip + 20, 1, header - 20); /* no operation */
	return header;
}

static inline uint32_t build_ipv6(const struct shape *shape, struct built *built)
{
	uint8_t *ip = built->data + built->network, *next = ip + 6;
	uint32_t at = 40, i;

	ip[0] = 0x60;
	ip[7] = 8;
	memcpy(ip + 8, source6, 16);
	memcpy(ip + 24, destination6, 16);
	for (i = 0; i < shape->extensions; i++) {
		const struct extension *extension = &shape->extension[i];

		*next = extension->type;
		next = ip + at;
		built->first[i] = built->network + at;
		if (extension->type == 44) {
			set16(ip + at + 2, extension->fragment);
		} else if (extension->type == 51) {
			ip[at + 1] = (uint8_t)(extension->size / 4 - 2);
		} else {
			ip[at + 1] = (uint8_t)(extension->size / 8 - 1);
			if (extension->type == 43)
				ip[at + 3] = extension->segments_left;
		}
		at += extension->size;
	}
	*next = shape->protocol ? shape->protocol : 17;
	return at;
}

static inline void build(const struct shape *shape, struct built *built)
{
	uint8_t *udp;
	uint32_t i;

	memset(built, 0, sizeof(*built));
	built->network = build_link(shape, built);
	built->transport = built->network +
			   (shape->family == 6 ? build_ipv6(shape, built) : build_ipv4(shape, built));
	built->datagram_end = built->transport + 8 + shape->payload;
	built->network_end = built->datagram_end + shape->surplus;
	built->length = built->network_end + shape->padding;
	udp = built->data + built->transport;
	set16(udp, SOURCE_PORT);
	set16(udp + 2, DESTINATION_PORT);
	set16(udp + 4, 8 + shape->payload);
	for (i = 0; i < shape->payload; i++)
		udp[8 + i] = (uint8_t)(i * 7 + 3);
	memset(built->data + built->datagram_end, 0xee, built->length - built->datagram_end);
	if (shape->family == 6) {
		set16(built->data + built->network + 4, built->network_end - built->network - 40);
	} else {
		set16(built->data + built->network + 2, built->network_end - built->network);
		sum_ipv4(built->data + built->network);
	}
	if (shape->summing != SUM_NONE)
		sum_udp(built, shape->family);
	if (shape->summing == SUM_WRONG)
		udp[6] ^= 0x10;
}

/* Whole datagrams and ESP packets, each a way to be one. */
static const struct shape whole[] = {
	{ .family = 4, .payload = 18 },
	{ .family = 4, .payload = 0 },
	{ .family = 4, .payload = 0, .padding = 18 },
	{ .family = 4, .payload = 1, .padding = 17 },
	{ .family = 4, .payload = 37, .summing = SUM_NONE },
	{ .family = 4, .payload = 5, .options = 1 },
	{ .family = 4, .payload = 6, .options = 10 },
	{ .family = 4, .payload = 18, .fragment = 0x4000 }, /* "do not fragment" is none */
	{ .family = 4, .payload = 18, .fragment = 0x8000 }, /* nor is the reserved bit */
	{ .family = 4, .payload = 7, .surplus = 12 },
	{ .family = 4, .payload = 0, .surplus = 5, .padding = 9 },
	{ .family = 4, .payload = 11, .tags = 1, .tag = { 0x0064 } },
	{ .family = 4, .payload = 11, .tags = 1, .tag = { 0xe000 } },
	{ .family = 4, .payload = 11, .tags = 2, .tag = { 0x0005, 0x0006 } },
	{ .family = 4, .payload = 9, .link = LINK_IP },
	{ .family = 4, .payload = 9, .link = LINK_IP, .options = 3 },
	{ .family = 6, .payload = 18 },
	{ .family = 6, .payload = 0 },
	{ .family = 6, .payload = 3, .padding = 4, .surplus = 9 },
	{ .family = 6, .payload = 11, .tags = 2, .tag = { 0x0fff, 0x0001 } },
	{ .family = 6, .payload = 9, .link = LINK_IP },
	{ .family = 6, .payload = 21, .extensions = 1, .extension = { { .type = 0, .size = 8 } } },
	{ .family = 6, .payload = 21, .extensions = 1, .extension = { { .type = 60, .size = 24 } } },
	{ .family = 6, .payload = 21, .extensions = 1, .extension = { { .type = 43, .size = 24 } } },
	{ .family = 6, .payload = 21, .extensions = 1, .extension = { { .type = 44, .size = 8 } } },
	/* The reserved bits of an atomic fragment say nothing (RFC 8200, 4.5). */
	{ .family = 6, .payload = 21, .extensions = 1, .extension = { { .type = 44, .size = 8, .fragment = 6 } } },
	{ .family = 6, .payload = 21, .extensions = 1, .extension = { { .type = 51, .size = 24 } } },
	{ .family = 6, .payload = 21, .extensions = 1, .extension = { { .type = 51, .size = 8 } } },
	{ .family = 6, .payload = 2, .surplus = 3, .padding = 4, .extensions = 6,
	  .extension = { { .type = 0, .size = 16 }, { .type = 60, .size = 8 }, { .type = 43, .size = 8 },
			 { .type = 44, .size = 8 }, { .type = 51, .size = 16 }, { .type = 60, .size = 8 } } },
	/* ESP: what looks like a UDP header is its SPI and sequence number. */
	{ .family = 4, .protocol = 50, .payload = 0 },
	{ .family = 4, .protocol = 50, .payload = 24 },
	{ .family = 4, .protocol = 50, .payload = 24, .padding = 11 },
	{ .family = 4, .protocol = 50, .payload = 24, .summing = SUM_WRONG },
	{ .family = 4, .protocol = 50, .payload = 3, .surplus = 5, .options = 2, .tags = 1, .tag = { 7 } },
	{ .family = 4, .protocol = 50, .payload = 9, .link = LINK_IP, .summing = SUM_NONE },
	{ .family = 6, .protocol = 50, .payload = 0, .summing = SUM_NONE },
	{ .family = 6, .protocol = 50, .payload = 33, .padding = 3 },
	{ .family = 6, .protocol = 50, .payload = 21, .extensions = 2,
	  .extension = { { .type = 0, .size = 8 }, { .type = 60, .size = 16 } } },
	{ .family = 6, .protocol = 50, .payload = 21, .extensions = 2,
	  .extension = { { .type = 44, .size = 8 }, { .type = 51, .size = 24 } } },
};

/* Where what is relayed begins and ends: of ESP all of the IP payload. */
static inline uint32_t relayed_from(const struct shape *shape, const struct built *built)
{
	return built->transport + (shape->protocol == 50 ? 0 : 8);
}

static inline uint32_t relayed_to(const struct shape *shape, const struct built *built)
{
	return shape->protocol == 50 ? built->network_end : built->datagram_end;
}

enum { WHOLE = sizeof(whole) / sizeof(whole[0]) };

#endif
