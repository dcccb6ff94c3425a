/* packet.c: every verdict, every length, and nothing read that was not captured.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "packet.h"

#include "check.h"
#include "frames.h"

/* What a parse found; offsets, since the frame is gone by then. */
struct found {
	enum verdict verdict;
	struct packet packet;
	uint32_t source, destination, payload;
};

/* Parses a copy that ends where its memory ends: the sanitizer sees the first byte beyond. */
static struct found parse(const uint8_t *data, uint32_t captured, uint32_t length, enum link_layer link,
			  int checksum_known)
{
	/* One byte in front, so that an empty capture is no allocation of nothing; it also misaligns. */
	uint8_t *memory = check_allocate((size_t)captured + 1), *copy = memory + 1;
	struct frame frame = {
		.data = copy, .captured = captured, .length = length, .link = link, .checksum_known = checksum_known
	};
	struct found found;

	memcpy(copy, data, captured);
	memset(&found, 0xa5, sizeof(found));
	found.verdict = packet_parse(&frame, &found.packet);
	if (found.verdict == PACKET_DATAGRAM) {
		uint32_t held = captured < length ? captured : length;

		found.source = (uint32_t)(found.packet.source - copy);
		found.destination = (uint32_t)(found.packet.destination - copy);
		found.payload = (uint32_t)(found.packet.payload - copy);
		CHECK(found.payload <= held && found.packet.payload_length <= held - found.payload);
		CHECK(found.destination < found.payload && found.source < found.destination);
	}
	free(memory);
	return found;
}

static enum verdict verdict_of(const struct built *built, enum link_layer link)
{
	return parse(built->data, built->length, built->length, link, 0).verdict;
}

static void test_whole_datagrams(void)
{
	struct built built;
	uint32_t i;

	for (i = 0; i < WHOLE; i++) {
		const struct shape *shape = &whole[i];
		struct found found;
		char subject[32];

		snprintf(subject, sizeof(subject), "whole[%u]", i);
		check_about(subject);
		build(shape, &built);
		found = parse(built.data, built.length, built.length, shape->link, 0);
		CHECK_EQUAL(found.verdict, PACKET_DATAGRAM);
		CHECK_EQUAL(found.packet.family, shape->family);
		CHECK_EQUAL(found.source, built.network + (shape->family == 6 ? 8 : 12));
		CHECK_EQUAL(found.destination, built.network + (shape->family == 6 ? 24 : 16));
		CHECK_EQUAL(found.packet.protocol, shape->protocol ? shape->protocol : PROTOCOL_UDP);
		CHECK_EQUAL(found.packet.source_port, shape->protocol == PROTOCOL_ESP ? 0 : SOURCE_PORT);
		CHECK_EQUAL(found.packet.destination_port, shape->protocol == PROTOCOL_ESP ? 0 : DESTINATION_PORT);
		/* With a surplus, RFC 9868: UDP's own length counts. */
		CHECK_EQUAL(found.payload, relayed_from(shape, &built));
		CHECK_EQUAL(found.payload + found.packet.payload_length, relayed_to(shape, &built));
	}
}

/* Every number of captured bytes with every number of bytes on the wire. */
static void test_every_cut(void)
{
	struct built built;
	uint32_t i, captured, length;
	int known;

	for (i = 0; i < WHOLE; i++) {
		char subject[64];

		build(&whole[i], &built);
		for (captured = 0; captured <= built.length; captured++)
			for (length = 0; length <= built.length; length++)
				for (known = 0; known < 2; known++) {
					struct found found =
						parse(built.data, captured, length, whole[i].link, known);

					snprintf(subject, sizeof(subject), "whole[%u], %u of %u bytes", i, captured,
						 length);
					check_about(subject);
					if (length < built.network_end) {
						/* Which it is depends on whether the length was captured. */
						CHECK(found.verdict == PACKET_MALFORMED ||
						      (found.verdict == PACKET_TRUNCATED && captured < length));
					} else if (captured < relayed_to(&whole[i], &built)) {
						CHECK_EQUAL(found.verdict, PACKET_TRUNCATED);
					} else {
						CHECK_EQUAL(found.verdict, PACKET_DATAGRAM);
					}
				}
	}
}

enum base { NOTHING, LINK, NETWORK, TRANSPORT, FIRST, SECOND };

/* `width` bytes at `offset` from `base` become `value`. */
struct edit {
	enum base base;
	uint32_t offset, width, value;
};

struct spoilt {
	const char *name;
	enum verdict verdict;
	struct shape shape;
	struct edit edit[2];
	int stale; /* the IPv4 header's checksum is not made anew */
};

#define V4 .family = 4, .payload = 18
#define V6 .family = 6, .payload = 18
#define ESP .protocol = PROTOCOL_ESP
#define ONE(...) .extensions = 1, .extension = { { __VA_ARGS__ } }

static const struct spoilt spoilt[] = {
	/* The link. */
	{ "ARP", PACKET_FOREIGN, { V4 }, { { LINK, 12, 2, 0x0806 } }, 0 },
	{ "an IEEE 802.3 length", PACKET_FOREIGN, { V4 }, { { LINK, 12, 2, 46 } }, 0 },
	{ "MPLS", PACKET_FOREIGN, { V4 }, { { LINK, 12, 2, 0x8847 } }, 0 },
	{ "ARP within a tag", PACKET_FOREIGN, { V4, .tags = 1, .tag = { 5 } }, { { LINK, 16, 2, 0x0806 } }, 0 },
	{ "three tags", PACKET_FOREIGN, { V4, .tags = 3, .tag = { 1, 2, 3 } }, { { 0 } }, 0 },
	{ "IPv6 that says it is IPv4", PACKET_MALFORMED, { V6 }, { { LINK, 12, 2, 0x0800 } }, 0 },
	{ "IPv4 that says it is IPv6", PACKET_MALFORMED, { V4 }, { { LINK, 12, 2, 0x86dd } }, 0 },
	{ "neither, without a link header", PACKET_FOREIGN, { V4, .link = LINK_IP }, { { NETWORK, 0, 1, 0x55 } }, 1 },

	/* IPv4. */
	{ "IPv4: version 5", PACKET_MALFORMED, { V4 }, { { NETWORK, 0, 1, 0x55 } }, 0 },
	{ "IPv4: header of 16", PACKET_MALFORMED, { V4 }, { { NETWORK, 0, 1, 0x44 } }, 0 },
	{ "IPv4: header of 0", PACKET_MALFORMED, { V4 }, { { NETWORK, 0, 1, 0x40 } }, 0 },
	{ "IPv4: header longer than all", PACKET_MALFORMED, { .family = 4, .payload = 0 },
	  { { NETWORK, 0, 1, 0x4f } }, 0 },
	{ "IPv4: header into the padding", PACKET_MALFORMED, { .family = 4, .payload = 0, .padding = 40 },
	  { { NETWORK, 0, 1, 0x4f } }, 0 },
	{ "IPv4: total of 0", PACKET_MALFORMED, { V4 }, { { NETWORK, 2, 2, 0 } }, 0 },
	{ "IPv4: total of less than the header", PACKET_MALFORMED, { V4 }, { { NETWORK, 2, 2, 19 } }, 0 },
	{ "IPv4: total of the header alone", PACKET_MALFORMED, { V4 }, { { NETWORK, 2, 2, 20 } }, 0 },
	{ "IPv4: half a UDP header", PACKET_MALFORMED, { V4 }, { { NETWORK, 2, 2, 27 } }, 0 },
	{ "IPv4: total of one more than there is", PACKET_MALFORMED, { V4 }, { { NETWORK, 2, 2, 47 } }, 0 },
	{ "IPv4: total of 65535", PACKET_MALFORMED, { V4 }, { { NETWORK, 2, 2, 65535 } }, 0 },
	{ "IPv4: old header checksum", PACKET_BAD_CHECKSUM, { V4 }, { { NETWORK, 8, 1, 7 } }, 1 },
	{ "IPv4: old header checksum over options", PACKET_BAD_CHECKSUM, { V4, .options = 2 },
	  { { NETWORK, 27, 1, 0 } }, 1 },
	{ "IPv4: a fragment with an old header checksum", PACKET_BAD_CHECKSUM, { V4 },
	  { { NETWORK, 6, 2, 0x2000 } }, 1 },
	{ "IPv4: first fragment", PACKET_FRAGMENT, { V4, .fragment = 0x2000 }, { { 0 } }, 0 },
	{ "IPv4: middle fragment", PACKET_FRAGMENT, { V4, .fragment = 0x2010 }, { { 0 } }, 0 },
	{ "IPv4: last fragment", PACKET_FRAGMENT, { V4, .fragment = 0x0001 }, { { 0 } }, 0 },
	{ "IPv4: the highest offset", PACKET_FRAGMENT, { V4, .fragment = 0x1fff }, { { 0 } }, 0 },
	{ "IPv4: fragment of TCP", PACKET_FRAGMENT, { V4, .fragment = 0x2000, .protocol = 6 }, { { 0 } }, 0 },
	{ "IPv4: TCP", PACKET_FOREIGN, { V4, .protocol = 6 }, { { 0 } }, 0 },
	{ "IPv4: IGMP", PACKET_FOREIGN, { V4, .protocol = 2 }, { { 0 } }, 0 },
	{ "IPv4: AH", PACKET_FOREIGN, { V4, .protocol = 51 }, { { 0 } }, 0 },
	{ "IPv4: UDP-Lite", PACKET_FOREIGN, { V4, .protocol = 136 }, { { 0 } }, 0 },

	/* UDP. */
	{ "UDP: length of 0", PACKET_MALFORMED, { V4 }, { { TRANSPORT, 4, 2, 0 } }, 0 },
	{ "UDP: length of 7", PACKET_MALFORMED, { V4 }, { { TRANSPORT, 4, 2, 7 } }, 0 },
	{ "UDP: length of one more than there is", PACKET_MALFORMED, { V4 }, { { TRANSPORT, 4, 2, 27 } }, 0 },
	{ "UDP: length into the padding", PACKET_MALFORMED, { V4, .padding = 20 }, { { TRANSPORT, 4, 2, 27 } }, 0 },
	{ "UDP: length of 65535", PACKET_MALFORMED, { V4 }, { { TRANSPORT, 4, 2, 65535 } }, 0 },
	{ "UDP: a shorter length than was summed", PACKET_BAD_CHECKSUM, { V4 }, { { TRANSPORT, 4, 2, 25 } }, 0 },
	{ "UDP: wrong checksum", PACKET_BAD_CHECKSUM, { V4, .summing = SUM_WRONG }, { { 0 } }, 0 },
	{ "UDP: another port than was summed", PACKET_BAD_CHECKSUM, { V4 }, { { TRANSPORT, 2, 2, 5001 } }, 0 },
	{ "UDP: another address than was summed", PACKET_BAD_CHECKSUM, { V4 }, { { NETWORK, 19, 1, 2 } }, 0 },
	{ "UDP: another payload than was summed", PACKET_BAD_CHECKSUM, { V4 }, { { TRANSPORT, 25, 1, 0xff } }, 0 },
	{ "UDP over IPv6: length of 7", PACKET_MALFORMED, { V6 }, { { TRANSPORT, 4, 2, 7 } }, 0 },
	/* RFC 2675, 4: only a jumbogram may say 0, and jumbograms are not relayed. */
	{ "UDP over IPv6: length of 0", PACKET_MALFORMED, { V6 }, { { TRANSPORT, 4, 2, 0 } }, 0 },
	{ "UDP over IPv6: length of one more", PACKET_MALFORMED, { V6 }, { { TRANSPORT, 4, 2, 27 } }, 0 },
	{ "UDP over IPv6: wrong checksum", PACKET_BAD_CHECKSUM, { V6, .summing = SUM_WRONG }, { { 0 } }, 0 },
	{ "UDP over IPv6: no checksum", PACKET_BAD_CHECKSUM, { V6, .summing = SUM_NONE }, { { 0 } }, 0 },

	/* IPv6. */
	{ "IPv6: version 4", PACKET_MALFORMED, { V6 }, { { NETWORK, 0, 1, 0x45 } }, 0 },
	{ "IPv6: length of one more than there is", PACKET_MALFORMED, { V6 }, { { NETWORK, 4, 2, 27 } }, 0 },
	{ "IPv6: length of 65535", PACKET_MALFORMED, { V6 }, { { NETWORK, 4, 2, 65535 } }, 0 },
	{ "IPv6: length of 0", PACKET_MALFORMED, { V6 }, { { NETWORK, 4, 2, 0 } }, 0 },
	{ "IPv6: half a UDP header", PACKET_MALFORMED, { V6 }, { { NETWORK, 4, 2, 7 } }, 0 },
	{ "IPv6: jumbogram", PACKET_MALFORMED, { V6, ONE(.type = 0, .size = 8) },
	  { { NETWORK, 4, 2, 0 }, { FIRST, 2, 2, 0xc204 } }, 0 },
	{ "IPv6: TCP", PACKET_FOREIGN, { V6, .protocol = 6 }, { { 0 } }, 0 },
	{ "IPv6: ICMPv6", PACKET_FOREIGN, { V6, .protocol = 58 }, { { 0 } }, 0 },
	{ "IPv6: no next header", PACKET_FOREIGN, { V6, .protocol = 59 }, { { 0 } }, 0 },
	{ "IPv6: mobility header", PACKET_FOREIGN, { V6, .protocol = 135 }, { { 0 } }, 0 },
	{ "IPv6: TCP behind an extension", PACKET_FOREIGN, { V6, .protocol = 6, ONE(.type = 60, .size = 8) },
	  { { 0 } }, 0 },
	{ "IPv6: hop-by-hop too long", PACKET_MALFORMED, { V6, ONE(.type = 0, .size = 8) }, { { FIRST, 1, 1, 4 } }, 0 },
	{ "IPv6: hop-by-hop of 2048", PACKET_MALFORMED, { V6, ONE(.type = 0, .size = 8) },
	  { { FIRST, 1, 1, 255 } }, 0 },
	{ "IPv6: destination options too long", PACKET_MALFORMED, { V6, ONE(.type = 60, .size = 8) },
	  { { FIRST, 1, 1, 200 } }, 0 },
	{ "IPv6: routing too long", PACKET_MALFORMED, { V6, ONE(.type = 43, .size = 8) }, { { FIRST, 1, 1, 5 } }, 0 },
	{ "IPv6: AH too long", PACKET_MALFORMED, { V6, ONE(.type = 51, .size = 16) }, { { FIRST, 1, 1, 99 } }, 0 },
	{ "IPv6: an extension without room", PACKET_MALFORMED, { V6, ONE(.type = 60, .size = 8) },
	  { { NETWORK, 4, 2, 7 } }, 0 },
	{ "IPv6: an extension, and nothing behind it", PACKET_MALFORMED, { V6, ONE(.type = 60, .size = 8) },
	  { { NETWORK, 4, 2, 8 } }, 0 },
	{ "IPv6: an extension over the UDP header", PACKET_MALFORMED, { .family = 6, .payload = 4,
	  ONE(.type = 60, .size = 8) }, { { FIRST, 1, 1, 1 } }, 0 },
	{ "IPv6: hop-by-hop in second place", PACKET_MALFORMED, { V6, .extensions = 2,
	  .extension = { { .type = 60, .size = 8 }, { .type = 0, .size = 8 } } }, { { 0 } }, 0 },
	{ "IPv6: hop-by-hop twice", PACKET_MALFORMED, { V6, .extensions = 2,
	  .extension = { { .type = 0, .size = 8 }, { .type = 0, .size = 8 } } }, { { 0 } }, 0 },
	{ "IPv6: segments left", PACKET_FOREIGN, { V6, ONE(.type = 43, .size = 24, .segments_left = 1) }, { { 0 } },
	  0 },
	{ "IPv6: segments left behind others", PACKET_FOREIGN, { V6, .extensions = 2,
	  .extension = { { .type = 0, .size = 8 }, { .type = 43, .size = 24, .segments_left = 255 } } }, { { 0 } }, 0 },
	{ "IPv6: first fragment", PACKET_FRAGMENT, { V6, ONE(.type = 44, .size = 8, .fragment = 1) }, { { 0 } }, 0 },
	{ "IPv6: middle fragment", PACKET_FRAGMENT, { V6, ONE(.type = 44, .size = 8, .fragment = 0x0051) }, { { 0 } },
	  0 },
	{ "IPv6: last fragment", PACKET_FRAGMENT, { V6, ONE(.type = 44, .size = 8, .fragment = 8) }, { { 0 } }, 0 },
	{ "IPv6: the highest offset", PACKET_FRAGMENT, { V6, ONE(.type = 44, .size = 8, .fragment = 0xfff8) },
	  { { 0 } }, 0 },
	{ "IPv6: fragment of TCP", PACKET_FRAGMENT, { V6, .protocol = 6, ONE(.type = 44, .size = 8, .fragment = 1) },
	  { { 0 } }, 0 },
	{ "IPv6: fragment behind others", PACKET_FRAGMENT, { V6, .extensions = 3,
	  .extension = { { .type = 0, .size = 8 }, { .type = 43, .size = 8 }, { .type = 44, .size = 8, .fragment = 1 } } },
	  { { 0 } }, 0 },
	{ "IPv6: bad checksum behind an atomic fragment", PACKET_BAD_CHECKSUM,
	  { V6, .summing = SUM_WRONG, ONE(.type = 44, .size = 8) }, { { 0 } }, 0 },
	{ "IPv6: a fragment header's second byte is no length", PACKET_DATAGRAM, { V6, ONE(.type = 44, .size = 8) },
	  { { FIRST, 1, 1, 255 } }, 0 },
};

static const struct spoilt spoilt_esp[] = {
	{ "ESP: no header", PACKET_MALFORMED, { V4, ESP }, { { NETWORK, 2, 2, 20 } }, 0 },
	{ "ESP: header of 7", PACKET_MALFORMED, { V4, ESP }, { { NETWORK, 2, 2, 27 } }, 0 },
	{ "ESP: header of 7 and padding", PACKET_MALFORMED, { V4, ESP, .padding = 9 }, { { NETWORK, 2, 2, 27 } }, 0 },
	{ "ESP: a header alone", PACKET_DATAGRAM, { V4, ESP }, { { NETWORK, 2, 2, 28 } }, 0 },
	{ "ESP: total of one more than there is", PACKET_MALFORMED, { V4, ESP }, { { NETWORK, 2, 2, 47 } }, 0 },
	{ "ESP: old header checksum", PACKET_BAD_CHECKSUM, { V4, ESP }, { { NETWORK, 8, 1, 7 } }, 1 },
	{ "ESP: first fragment", PACKET_FRAGMENT, { V4, ESP, .fragment = 0x2000 }, { { 0 } }, 0 },
	{ "ESP: last fragment", PACKET_FRAGMENT, { V4, ESP, .fragment = 0x0001 }, { { 0 } }, 0 },
	{ "ESP: no UDP length", PACKET_DATAGRAM, { V4, ESP }, { { TRANSPORT, 4, 2, 0 } }, 0 },
	{ "ESP: a UDP length of 65535", PACKET_DATAGRAM, { V4, ESP }, { { TRANSPORT, 4, 2, 65535 } }, 0 },
	{ "ESP: what was a UDP checksum", PACKET_DATAGRAM, { V6, ESP }, { { TRANSPORT, 6, 2, 0 } }, 0 },
	{ "ESP over IPv6: header of 7", PACKET_MALFORMED, { V6, ESP }, { { NETWORK, 4, 2, 7 } }, 0 },
	{ "ESP over IPv6: nothing", PACKET_MALFORMED, { V6, ESP }, { { NETWORK, 4, 2, 0 } }, 0 },
	{ "ESP over IPv6: an extension, and nothing behind it", PACKET_MALFORMED,
	  { V6, ESP, ONE(.type = 60, .size = 8) }, { { NETWORK, 4, 2, 8 } }, 0 },
	{ "ESP over IPv6: header of 7 behind an extension", PACKET_MALFORMED,
	  { V6, ESP, ONE(.type = 60, .size = 8) }, { { NETWORK, 4, 2, 15 } }, 0 },
	{ "ESP over IPv6: fragment", PACKET_FRAGMENT,
	  { V6, ESP, ONE(.type = 44, .size = 8, .fragment = 1) }, { { 0 } }, 0 },
	{ "ESP over IPv6: segments left", PACKET_FOREIGN,
	  { V6, ESP, ONE(.type = 43, .size = 24, .segments_left = 1) }, { { 0 } }, 0 },
};

static void test_spoilt_frames(const struct spoilt *frames, uint32_t count)
{
	struct built built;
	uint32_t i, j, captured;

	for (i = 0; i < count; i++) {
		const struct spoilt *it = &frames[i];

		check_about(it->name);
		build(&it->shape, &built);
		for (j = 0; j < 2; j++) {
			const struct edit *edit = &it->edit[j];
			const uint32_t bases[] = { 0, 0, built.network, built.transport, built.first[0],
						   built.first[1] };
			uint8_t *at = built.data + bases[edit->base] + edit->offset;

			if (edit->width == 1)
				*at = (uint8_t)edit->value;
			else if (edit->width == 2)
				set16(at, edit->value);
		}
		/* Not over a header that is longer than the frame: that is what it is about. */
		if (it->shape.family == 4 && !it->stale)
			sum_ipv4(built.data + built.network);
		CHECK_EQUAL(verdict_of(&built, it->shape.link), it->verdict);
		/* Less of it: either it can be told all the same, or it is truncated. */
		for (captured = 0; captured < built.length; captured++) {
			enum verdict verdict =
				parse(built.data, captured, built.length, it->shape.link, 0).verdict;

			CHECK(verdict == it->verdict || verdict == PACKET_TRUNCATED);
		}
	}
}

/* An extension header of 8 bytes is read when there are just as many: of the packet, and of what was captured. */
static void test_an_extension_that_is_the_last_of_all(void)
{
	static const struct {
		const char *name;
		enum verdict alone, cut; /* the packet ends there, or the capture does */
		uint8_t protocol;
		struct extension extension;
	} cases[] = {
		{ "no next header", PACKET_FOREIGN, PACKET_FOREIGN, 59, { .type = 60, .size = 8 } },
		{ "a fragment", PACKET_FRAGMENT, PACKET_FRAGMENT, 17, { .type = 44, .size = 8, .fragment = 1 } },
		{ "segments left", PACKET_FOREIGN, PACKET_FOREIGN, 17, { .type = 43, .size = 8, .segments_left = 1 } },
		{ "UDP", PACKET_MALFORMED, PACKET_TRUNCATED, 17, { .type = 60, .size = 8 } },
	};
	uint32_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct shape shape = { V6, .protocol = cases[i].protocol, ONE(0) };
		struct built built;
		uint32_t end;

		check_about(cases[i].name);
		shape.extension[0] = cases[i].extension;
		build(&shape, &built);
		end = built.first[0] + 8;
		CHECK_EQUAL(parse(built.data, end, built.length, LINK_ETHERNET, 0).verdict, cases[i].cut);
		CHECK_EQUAL(parse(built.data, end - 1, built.length, LINK_ETHERNET, 0).verdict, PACKET_TRUNCATED);
		set16(built.data + built.network + 4, 8);
		CHECK_EQUAL(parse(built.data, end, end, LINK_ETHERNET, 0).verdict, cases[i].alone);
		set16(built.data + built.network + 4, 7);
		CHECK_EQUAL(parse(built.data, end, end, LINK_ETHERNET, 0).verdict, PACKET_MALFORMED);
	}
}

static void test_a_chain_has_an_end(void)
{
	struct shape shape = { V6 };
	struct built built;

	check_about("chain");
	for (shape.extensions = 0; shape.extensions < FRAME_EXTENSIONS; shape.extensions++) {
		shape.extension[shape.extensions] = (struct extension){ .type = 60, .size = 8 };
		build(&shape, &built);
		/* IPV6_EXTENSIONS_MAX */
		CHECK_EQUAL(verdict_of(&built, LINK_ETHERNET),
			    shape.extensions < 16 ? PACKET_DATAGRAM : PACKET_MALFORMED);
	}
}

static void test_tags(void)
{
	static const struct {
		uint32_t tags;
		uint16_t tag[2], vid;
	} cases[] = {
		{ 0, { 0 }, 0 },
		{ 1, { 5 }, 5 },
		{ 1, { 0xe005 }, 5 },
		{ 1, { 0xe000 }, 0 }, /* a priority alone */
		{ 2, { 5, 6 }, 0xffff }, /* either will do */
		{ 2, { 0, 6 }, 6 },
		{ 2, { 5, 0 }, 5 },
		{ 2, { 0, 0 }, 0 },
	};
	uint32_t i;

	check_about("tags");
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct shape shape = { V4, .tags = cases[i].tags, .tag = { cases[i].tag[0], cases[i].tag[1] } };
		struct built built;
		struct found found;

		build(&shape, &built);
		found = parse(built.data, built.length, built.length, LINK_ETHERNET, 0);
		CHECK_EQUAL(found.verdict, PACKET_DATAGRAM);
		if (cases[i].vid == 0xffff)
			CHECK((found.packet.vlan & 0x0fff) != 0);
		else
			CHECK_EQUAL(found.packet.vlan & 0x0fff, cases[i].vid);
	}
}

static void test_a_known_checksum_is_not_looked_at(void)
{
	static const struct shape shapes[] = {
		{ V4, .summing = SUM_WRONG },
		{ V6, .summing = SUM_WRONG },
		{ V6, .summing = SUM_NONE },
	};
	struct built built;
	uint32_t i;

	check_about("known checksum");
	for (i = 0; i < 3; i++) {
		build(&shapes[i], &built);
		CHECK_EQUAL(parse(built.data, built.length, built.length, LINK_ETHERNET, 1).verdict, PACKET_DATAGRAM);
		CHECK_EQUAL(parse(built.data, built.length, built.length, LINK_ETHERNET, 0).verdict,
			    PACKET_BAD_CHECKSUM);
	}
	/* Of IPv4's own header nobody vouches for anything. */
	build(&shapes[0], &built);
	built.data[built.network + 8]--;
	CHECK_EQUAL(parse(built.data, built.length, built.length, LINK_ETHERNET, 1).verdict, PACKET_BAD_CHECKSUM);
}

static void test_checksums(void)
{
	uint64_t random = 1;
	uint32_t round, i;

	check_about("checksums");
	for (round = 0; round < 20000; round++) {
		struct shape shape = {
			.family = check_random(&random) % 2 ? 4 : 6,
			.payload = check_random(&random) % (round % 8 ? 64 : 1473),
			.surplus = check_random(&random) % 3,
		};
		struct built built;
		uint8_t *payload;

		build(&shape, &built);
		payload = built.data + built.transport + 8;
		for (i = 0; i < shape.payload; i++)
			payload[i] = round % 16 == 1 ? 0xff : round % 16 == 2 ? 0 : (uint8_t)check_random(&random);
		sum_udp(&built, shape.family);
		CHECK_EQUAL(verdict_of(&built, LINK_ETHERNET), PACKET_DATAGRAM);
		if (shape.payload == 0)
			continue;
		i = check_random(&random) % shape.payload;
		payload[i] ^= (uint8_t)(1U << check_random(&random) % 8);
		CHECK_EQUAL(verdict_of(&built, LINK_ETHERNET), PACKET_BAD_CHECKSUM);
	}
}

/* A sum of zero is sent as its other form, 0xffff: RFC 768. */
static void test_a_checksum_of_ffff(void)
{
	static const struct shape shapes[] = { { V4 }, { V6 }, { .family = 4, .payload = 2 } };
	struct built built;
	uint32_t i;

	check_about("checksum of 0xffff");
	for (i = 0; i < 3; i++) {
		uint8_t *udp;

		build(&shapes[i], &built);
		udp = built.data + built.transport;
		set16(udp + 8, 0);
		sum_udp(&built, shapes[i].family);
		memcpy(udp + 8, udp + 6, 2);
		sum_udp(&built, shapes[i].family);
		CHECK_EQUAL(look16(udp + 6), 0xffff);
		CHECK_EQUAL(verdict_of(&built, LINK_ETHERNET), PACKET_DATAGRAM);
	}
}

/* IPv6's largest length that is none of a jumbogram, and IPv4's. */
static void test_largest(void)
{
	static const struct {
		uint8_t family;
		uint32_t payload;
	} cases[] = { { 4, 65535 - 20 - 8 }, { 6, 65535 - 8 } };
	uint32_t i;

	check_about("largest");
	for (i = 0; i < 2; i++) {
		struct shape shape = { .family = cases[i].family, .payload = 0, .link = LINK_IP };
		struct built *built = check_allocate(sizeof(*built));
		uint32_t header, total;
		uint8_t *data;

		build(&shape, built);
		header = built->transport;
		total = header + 8 + cases[i].payload;
		data = check_allocate(total);
		memcpy(data, built->data, header + 8);
		memset(data + header + 8, 0xff, cases[i].payload);
		set16(data + (shape.family == 6 ? 4 : 2), shape.family == 6 ? total - 40 : total);
		if (shape.family == 4)
			sum_ipv4(data);
		set16(data + header + 4, 8 + cases[i].payload);
		set16(data + header + 6, 0);
		set16(data + header + 6,
		      0xffff - plain_udp_sum(shape.family, data + (shape.family == 6 ? 8 : 12),
					     data + (shape.family == 6 ? 24 : 16), data + header,
					     8 + cases[i].payload));
		CHECK_EQUAL(parse(data, total, total, LINK_IP, 0).verdict, PACKET_DATAGRAM);
		CHECK_EQUAL(parse(data, total - 1, total, LINK_IP, 0).verdict, PACKET_TRUNCATED);
		data[total - 1] = 0;
		CHECK_EQUAL(parse(data, total, total, LINK_IP, 0).verdict, PACKET_BAD_CHECKSUM);
		free(data);
		free(built);
	}
}

int main(void)
{
	test_whole_datagrams();
	test_every_cut();
	test_spoilt_frames(spoilt, sizeof(spoilt) / sizeof(spoilt[0]));
	test_spoilt_frames(spoilt_esp, sizeof(spoilt_esp) / sizeof(spoilt_esp[0]));
	test_an_extension_that_is_the_last_of_all();
	test_a_chain_has_an_end();
	test_tags();
	test_a_known_checksum_is_not_looked_at();
	test_checksums();
	test_a_checksum_of_ffff();
	test_largest();
	return check_result();
}
