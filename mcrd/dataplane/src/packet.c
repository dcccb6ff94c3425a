/* IPv4: RFC 791; IPv6: RFC 8200; UDP: RFC 768; ESP: RFC 4303.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "packet.h"

#include <string.h>

enum {
	ETHERNET_HEADER = 14,
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_IPV6 = 0x86dd,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_QINQ = 0x88a8,
	VLAN_TAG = 4,
	VLAN_TAGS_MAX = 2,
	IPV4_HEADER = 20,
	IPV6_HEADER = 40,
	IPV6_EXTENSIONS_MAX = 15,
	UDP_HEADER = 8,
	ESP_HEADER = 8,
};

/* Protocol numbers (IANA), as next headers too. */
enum {
	HEADER_HOP_BY_HOP = 0,
	HEADER_ROUTING = 43,
	HEADER_FRAGMENT = 44,
	HEADER_AUTHENTICATION = 51,
	HEADER_DESTINATION_OPTIONS = 60,
};

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

/* RFC 1071, 16-bit words in network order; folded only at the end. */
static uint64_t sum(const uint8_t *data, uint32_t length, uint64_t total)
{
	uint32_t i;

	for (i = 0; i + 4 <= length; i += 4) {
		uint32_t word;

		memcpy(&word, data + i, 4);
		total += __builtin_bswap32(word);
	}
	if (i + 2 <= length) {
		total += (uint64_t)get16(data + i) << 16;
		i += 2;
		if (i < length)
			total += (uint64_t)data[i] << 8;
	} else if (i < length) {
		total += (uint64_t)data[i] << 24;
	}
	return total;
}

static uint16_t fold(uint64_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)total;
}

/* `there` is how much of the UDP header and what follows was on the wire, `held` how much of it we hold. */
static enum verdict parse_udp(const struct frame *frame, const uint8_t *udp, uint32_t there, uint32_t held,
			      struct packet *packet)
{
	uint32_t length, address;
	uint64_t total;

	if (there < UDP_HEADER)
		return PACKET_MALFORMED;
	if (held < UDP_HEADER)
		return PACKET_TRUNCATED;
	length = get16(udp + 4);
	if (length < UDP_HEADER || length > there)
		return PACKET_MALFORMED;
	packet->source_port = get16(udp);
	packet->destination_port = get16(udp + 2);
	packet->payload = udp + UDP_HEADER;
	packet->payload_length = length - UDP_HEADER;
	if (!frame->checksum_known) {
		if (get16(udp + 6) == 0) {
			/* RFC 768: none was made. RFC 8200, 8.1: IPv6 has to have one. */
			if (packet->family == 6)
				return PACKET_BAD_CHECKSUM;
		} else if (length <= held) {
			address = packet->family == 6 ? 16 : 4;
			total = sum(packet->source, address, 0);
			total = sum(packet->destination, address, total);
			total += PROTOCOL_UDP + (uint64_t)length;
			if (fold(sum(udp, length, total)) != 0xffff)
				return PACKET_BAD_CHECKSUM;
		}
	}
	return length <= held ? PACKET_DATAGRAM : PACKET_TRUNCATED;
}

/* Relayed whole, from its own header on: there is no checksum, the far end's ICV is what counts. */
static enum verdict parse_esp(const uint8_t *esp, uint32_t there, uint32_t held, struct packet *packet)
{
	if (there < ESP_HEADER)
		return PACKET_MALFORMED;
	packet->payload = esp;
	packet->payload_length = there;
	return there <= held ? PACKET_DATAGRAM : PACKET_TRUNCATED;
}

static enum verdict parse_transport(const struct frame *frame, uint8_t protocol, const uint8_t *at, uint32_t there,
				    uint32_t held, struct packet *packet)
{
	packet->protocol = protocol;
	if (protocol == PROTOCOL_UDP)
		return parse_udp(frame, at, there, held, packet);
	if (protocol == PROTOCOL_ESP)
		return parse_esp(at, there, held, packet);
	return PACKET_FOREIGN;
}

static enum verdict parse_ipv4(const struct frame *frame, const uint8_t *ip, uint32_t there, uint32_t held,
			       struct packet *packet)
{
	uint32_t header, total;

	if (there < IPV4_HEADER)
		return PACKET_MALFORMED;
	if (held < IPV4_HEADER)
		return PACKET_TRUNCATED;
	header = (uint32_t)(ip[0] & 0x0f) * 4;
	total = get16(ip + 2);
	if (ip[0] >> 4 != 4 || header < IPV4_HEADER || total < header || total > there)
		return PACKET_MALFORMED;
	if (held < header)
		return PACKET_TRUNCATED;
	if (fold(sum(ip, header, 0)) != 0xffff)
		return PACKET_BAD_CHECKSUM;
	if (held > total)
		held = total; /* the rest is Ethernet padding */
	packet->family = 4;
	packet->source = ip + 12;
	packet->destination = ip + 16;
	if (get16(ip + 6) & 0x3fff) /* more fragments, or an offset */
		return PACKET_FRAGMENT;
	return parse_transport(frame, ip[9], ip + header, total - header, held - header, packet);
}

static enum verdict parse_ipv6(const struct frame *frame, const uint8_t *ip, uint32_t there, uint32_t held,
			       struct packet *packet)
{
	uint32_t at = IPV6_HEADER, total, length;
	uint8_t next;
	int i;

	if (there < IPV6_HEADER)
		return PACKET_MALFORMED;
	if (held < IPV6_HEADER)
		return PACKET_TRUNCATED;
	total = IPV6_HEADER + get16(ip + 4);
	if (ip[0] >> 4 != 6 || total > there)
		return PACKET_MALFORMED;
	if (held > total)
		held = total;
	packet->family = 6;
	packet->source = ip + 8;
	packet->destination = ip + 24;
	next = ip[6];
	for (i = 0;; i++) {
		switch (next) {
		case HEADER_HOP_BY_HOP:
			if (i > 0) /* RFC 8200, 4.1: only at the front */
				return PACKET_MALFORMED;
			break;
		case HEADER_ROUTING:
		case HEADER_FRAGMENT:
		case HEADER_AUTHENTICATION:
		case HEADER_DESTINATION_OPTIONS:
			break;
		default:
			return parse_transport(frame, next, ip + at, total - at, held - at, packet);
		}
		if (i == IPV6_EXTENSIONS_MAX || total - at < 8)
			return PACKET_MALFORMED;
		if (held - at < 8)
			return PACKET_TRUNCATED;
		length = next == HEADER_FRAGMENT         ? 8
			 : next == HEADER_AUTHENTICATION ? (uint32_t)(ip[at + 1] + 2) * 4 /* RFC 4302, 2.2 */
							 : (uint32_t)(ip[at + 1] + 1) * 8;
		if (length > total - at)
			return PACKET_MALFORMED;
		/* A fragment that is the whole packet is none: RFC 6946. */
		if (next == HEADER_FRAGMENT && (get16(ip + at + 2) & 0xfff9))
			return PACKET_FRAGMENT;
		/* RFC 8200, 4.4: with segments left, the address in the header is not the last destination. */
		if (next == HEADER_ROUTING && ip[at + 3] != 0)
			return PACKET_FOREIGN;
		if (length > held - at)
			return PACKET_TRUNCATED;
		next = ip[at];
		at += length;
	}
}

enum verdict packet_parse(const struct frame *frame, struct packet *packet)
{
	const uint8_t *at = frame->data;
	uint32_t there = frame->length, held = frame->captured;
	uint16_t type;
	int tags;

	memset(packet, 0, sizeof(*packet));
	if (held > there)
		held = there;
	if (frame->link == LINK_IP) {
		if (there < 1)
			return PACKET_MALFORMED;
		if (held < 1)
			return PACKET_TRUNCATED;
		type = at[0] >> 4 == 4 ? ETHERTYPE_IPV4 : at[0] >> 4 == 6 ? ETHERTYPE_IPV6 : 0;
	} else {
		if (there < ETHERNET_HEADER)
			return PACKET_MALFORMED;
		if (held < ETHERNET_HEADER)
			return PACKET_TRUNCATED;
		type = get16(at + 12);
		at += ETHERNET_HEADER;
		there -= ETHERNET_HEADER;
		held -= ETHERNET_HEADER;
		/* The kernel strips the outer tag; one that is still here stood within it. IEEE 802.1Q, 9.3. */
		for (tags = 0; type == ETHERTYPE_VLAN || type == ETHERTYPE_QINQ; tags++) {
			if (tags == VLAN_TAGS_MAX)
				return PACKET_FOREIGN;
			if (there < VLAN_TAG)
				return PACKET_MALFORMED;
			if (held < VLAN_TAG)
				return PACKET_TRUNCATED;
			if (!(packet->vlan & 0x0fff)) /* a priority tag within a VLAN is still in that VLAN */
				packet->vlan = get16(at);
			type = get16(at + 2);
			at += VLAN_TAG;
			there -= VLAN_TAG;
			held -= VLAN_TAG;
		}
	}
	if (type == ETHERTYPE_IPV4)
		return parse_ipv4(frame, at, there, held, packet);
	if (type == ETHERTYPE_IPV6)
		return parse_ipv6(frame, at, there, held, packet);
	return PACKET_FOREIGN;
}
