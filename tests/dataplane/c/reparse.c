/* The parser as a library for Python: a frame in, the verdict and what was found out.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "packet.h"

struct reparsed {
	uint32_t payload, length; /* in bytes, from the start of the frame */
	uint32_t family, protocol, source_port, destination_port, vlan;
};

int reparse(const uint8_t *data, uint32_t size, uint32_t link, struct reparsed *found)
{
	struct frame frame = { .data = data, .captured = size, .length = size, .link = link };
	struct packet packet;
	enum verdict verdict = packet_parse(&frame, &packet);

	if (verdict == PACKET_DATAGRAM)
		*found = (struct reparsed){
			.payload = (uint32_t)(packet.payload - data),
			.length = packet.payload_length,
			.family = packet.family,
			.protocol = packet.protocol,
			.source_port = packet.source_port,
			.destination_port = packet.destination_port,
			.vlan = packet.vlan,
		};
	return (int)verdict;
}
