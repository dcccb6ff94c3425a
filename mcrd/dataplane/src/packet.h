/* From a frame to a UDP datagram or an ESP packet, every length checked against the others.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_PACKET_H
#define MCRD_PACKET_H

#include <stddef.h>
#include <stdint.h>

#include "shared.h"

enum verdict {
	PACKET_DATAGRAM,     /* a whole UDP datagram or ESP packet: every field of struct packet but the interface is set */
	PACKET_FOREIGN,      /* something else: not IP, neither UDP nor ESP, or not at its destination yet */
	PACKET_MALFORMED,
	PACKET_BAD_CHECKSUM,
	PACKET_FRAGMENT,
	PACKET_TRUNCATED     /* the slot held less than the wire did */
};

struct packet {
	const uint8_t *source;      /* 4 or 16 bytes */
	const uint8_t *destination; /* 4 or 16 bytes */
	const uint8_t *payload;
	uint32_t payload_length;
	uint16_t source_port; /* ESP: 0, as the other */
	uint16_t destination_port;
	uint16_t vlan; /* tag control information of a tag that is still in the frame; 0: none */
	uint8_t family; /* 4 or 6 */
	uint8_t protocol; /* PROTOCOL_ */
	uint8_t interface; /* that it came by: the place of its counters. The loop sets it. */
};

enum { PROTOCOL_UDP = 17, PROTOCOL_ESP = 50 };

struct frame {
	const uint8_t *data;
	uint32_t captured; /* bytes that are there */
	uint32_t length;   /* bytes that were on the wire */
	enum link_layer link;
	int checksum_known; /* hardware or a local sender vouches for the transport checksum */
};

enum verdict packet_parse(const struct frame *frame, struct packet *packet);

#endif
