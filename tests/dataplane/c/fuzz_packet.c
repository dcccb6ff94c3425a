/* packet_parse() over frames that nobody would send.
 *
 * Built with gcc it mutates its own seeds, the same way in every run: fuzz_packet [COUNT [SEED]].
 * With clang, and as long as one likes:
 *
 *     clang -g -O1 -DFUZZER -fsanitize=fuzzer,address,undefined -Imcrd/dataplane/src -Itests/dataplane/c \
 *         tests/dataplane/c/fuzz_packet.c mcrd/dataplane/src/packet.c -o fuzz_packet
 *
 * An input is four bytes (flags, 16 bits of what the wire had more or less, how much to cut) and a frame.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "packet.h"

#include "mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PREFIX = 4, FLAG_IP = 1, FLAG_KNOWN = 2, FLAG_LONGER = 4, FLAG_SHORTER = 8 };

static int within(const uint8_t *at, uint32_t size, const uint8_t *begin, uint32_t room)
{
	return at >= begin && size <= room && (size_t)(at - begin) <= room - size;
}

static void ensure_datagram(const struct frame *frame, const struct packet *packet)
{
	uint32_t held = frame->captured < frame->length ? frame->captured : frame->length;
	uint32_t address = packet->family == 6 ? 16 : 4, sum;
	const uint8_t *udp = packet->payload - (packet->protocol == PROTOCOL_UDP ? 8 : 0);

	ENSURE(packet->family == 4 || packet->family == 6);
	ENSURE(within(packet->source, address, frame->data, held));
	ENSURE(within(packet->payload, packet->payload_length, frame->data, held));
	ENSURE(packet->destination == packet->source + address);
	ENSURE(udp >= packet->destination + address);
	if (packet->protocol == PROTOCOL_ESP) {
		ENSURE(packet->source_port == 0 && packet->destination_port == 0);
		ENSURE(packet->payload_length >= 8);
		return;
	}
	ENSURE(packet->protocol == PROTOCOL_UDP);
	ENSURE(look16(udp) == packet->source_port && look16(udp + 2) == packet->destination_port);
	ENSURE(look16(udp + 4) == packet->payload_length + 8);
	if (frame->checksum_known || (packet->family == 4 && look16(udp + 6) == 0))
		return;
	ENSURE(look16(udp + 6) != 0);
	sum = plain_udp_sum(packet->family, packet->source, packet->destination, udp, packet->payload_length + 8);
	ENSURE(sum == 0xffff || sum == 0);
}

/* The verdict over a copy that ends where its memory ends. */
static enum verdict parse(const uint8_t *data, struct frame frame)
{
	uint8_t *memory = malloc((size_t)frame.captured + 1);
	struct packet packet;
	enum verdict verdict;

	ENSURE(memory);
	memcpy(memory + 1, data, frame.captured);
	frame.data = memory + 1;
	memset(&packet, 0xff, sizeof(packet));
	verdict = packet_parse(&frame, &packet);
	ENSURE(verdict >= PACKET_DATAGRAM && verdict <= PACKET_TRUNCATED);
	if (verdict == PACKET_DATAGRAM)
		ensure_datagram(&frame, &packet);
	free(memory);
	return verdict;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame frame = { 0 };
	enum verdict verdict, other;
	uint32_t by;

	if (size < PREFIX || size > 0x10000)
		return 0;
	by = look16(data + 1);
	frame.link = data[0] & FLAG_IP ? LINK_IP : LINK_ETHERNET;
	frame.checksum_known = (data[0] & FLAG_KNOWN) != 0;
	frame.captured = (uint32_t)(size - PREFIX);
	frame.length = frame.captured;
	if (data[0] & FLAG_LONGER)
		frame.length += by;
	else if (data[0] & FLAG_SHORTER)
		frame.length -= by < frame.length ? by : frame.length;
	verdict = parse(data + PREFIX, frame);
	ENSURE(verdict != PACKET_TRUNCATED || frame.captured < frame.length);

	/* Whoever vouches for a checksum changes no other verdict. */
	frame.checksum_known = !frame.checksum_known;
	other = parse(data + PREFIX, frame);
	ENSURE(other == verdict || (frame.checksum_known ? verdict : other) == PACKET_BAD_CHECKSUM);
	frame.checksum_known = !frame.checksum_known;

	/* A verdict over less, if it is one, is the verdict. */
	if (frame.captured > 0) {
		frame.captured -= 1 + data[3] % frame.captured;
		other = parse(data + PREFIX, frame);
		ENSURE(other == PACKET_TRUNCATED || other == verdict);
	}
	return 0;
}

#ifndef FUZZER

enum { INPUT_ROOM = PREFIX + 256 };

static void edit_length(struct built *built, const struct shape *shape)
{
	uint8_t *ip = built->data + built->network, *at;

	switch (below(4)) {
	case 0:
		at = ip + (shape->family == 6 ? 4 : 2);
		set16(at, length_near(look16(at)));
		break;
	case 1:
		at = built->data + built->transport + 4;
		set16(at, length_near(look16(at)));
		break;
	case 2:
		if (shape->family == 4)
			ip[0] = (uint8_t)(0x40 | below(16));
		else if (shape->extensions)
			built->data[built->first[below(shape->extensions)] + 1] = (uint8_t)below(256);
		break;
	case 3:
		built->length = below(built->length + 1);
		break;
	}
}

static void mutate(const struct shape *shape, struct built *built)
{
	uint32_t rounds = below(4), i;

	for (i = 0; i < rounds; i++) {
		switch (below(4)) {
		case 0:
			built->data[below(built->length + 1)] ^= (uint8_t)(1U << below(8));
			break;
		case 1: /* into the headers, where it matters */
			built->data[below(built->transport + 8)] = (uint8_t)below(256);
			break;
		default:
			edit_length(built, shape);
			break;
		}
	}
	/* Else hardly anything got past the checksums. */
	if (shape->family == 4 && below(4))
		sum_ipv4(built->data + built->network);
}

int main(int argc, char **argv)
{
	unsigned long long count = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000000, i;
	static struct built seeds[WHOLE];

	if (argc > 2)
		mutate_state = strtoull(argv[2], NULL, 10) | 1;
	for (i = 0; i < WHOLE; i++)
		build(&whole[i], &seeds[i]);
	for (i = 0; i < count; i++) {
		uint32_t which = below(WHOLE), at;
		uint8_t input[INPUT_ROOM];
		struct built built = { .network = seeds[which].network };

		/* Not all of its room, which is mostly empty. */
		at = (uint32_t)offsetof(struct built, network);
		memcpy((uint8_t *)&built + at, (const uint8_t *)&seeds[which] + at, sizeof(built) - at);
		memcpy(built.data, seeds[which].data, INPUT_ROOM);
		mutate(&whole[which], &built);
		ENSURE(built.length <= INPUT_ROOM - PREFIX);
		input[0] = (uint8_t)((whole[which].link == LINK_IP ? FLAG_IP : 0) | (below(2) ? FLAG_KNOWN : 0) |
				     (below(3) ? 0 : below(2) ? FLAG_LONGER : FLAG_SHORTER));
		set16(input + 1, below(4) ? below(64) : below(65536));
		input[3] = (uint8_t)below(256);
		memcpy(input + PREFIX, built.data, built.length);
		LLVMFuzzerTestOneInput(input, PREFIX + built.length);
	}
	printf("%llu inputs\n", count);
	return 0;
}

#endif
