/* All that reads a frame, one after another as a worker does: packet.c, flows.c with rules.c, merge.c, inspect.c.
 *
 * fuzz_readers CORPUS [COUNT [SEED]]: what each frame of the corpus is taken for is checked; then COUNT frames made of
 * them, the same in every run. With clang, and as long as one likes: see fuzz_packet.c.
 *
 * An input is several frames: HEAD bytes (flags, length, datagrams of a super-frame, time since the last one), the frame.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "flows.h"
#include "mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD = 6, FLAG_IP = 1, FLAG_KNOWN = 2, FLAG_FOREIGN = 4, FLAG_TAGGED = 8, FLAG_CUT = 16, LEGS_AT = 6 };
enum { RULES = 12, STREAM = 7 };

struct reader {
	struct rules rules;
	struct flows flows;
	struct guard_memory shared;
	struct guard guard;
	struct hash_light_seed seed;
	struct merge_copy *copies;
	struct merge_stream *streams, *stream[RULES];
	struct merge_settings legs[RULES][MCRD_LEGS];
	struct merge_counters brought[RULES][MCRD_LEGS];
	struct inspect_counters seen[RULES];
	uint64_t given[RULES], now;
	uint32_t used;
};

static struct reader *reader;

/* Of rule `slot`: destination and port, of one or a range; some with a tag, or sources. */
static void put_rule(struct rules *rules, uint32_t slot)
{
	static const uint8_t group4[16] = { 239, 1, 1, 1 }, group6[16] = { 0xff, 0x15, [14] = 0x12, 0x34 };
	struct network networks[2] = { { .bits = 8 }, { .bits = 24 } };
	struct rule_match match = { .protocol = slot % 6 == 5 ? PROTOCOL_ESP : PROTOCOL_UDP };
	struct rule *rule;

	match.first.family = slot % 2 ? 6 : 4;
	memcpy(match.first.address, slot % 2 ? group6 : group4, 16);
	match.bits = slot < 8 ? (slot % 2 ? 128 : 32) : (slot % 2 ? 16 : 8);
	match.first.port = match.protocol == PROTOCOL_ESP ? 0 : slot < 4 ? 5000 : (uint16_t)(slot * 1000);
	match.last_port = match.protocol == PROTOCOL_ESP ? 0 : slot < 8 ? match.first.port : UINT16_MAX;
	match.vlan = slot == 2 ? 100 : 0;
	if (slot == 10) {
		match.source_count = match.exclude_count = 1;
		networks[0].address[0] = networks[1].address[0] = 10;
	}
	rule = rule_new(&match, networks, 0);
	ENSURE(rule);
	rule->slot = slot;
	rules_put(rules, rule, NULL);
}

static void begin(void)
{
	static const uint8_t own[16] = { 10, 1, 0, 1 };
	struct endpoint source = { .family = 4, .port = 40001 };
	uint32_t slot, leg;

	reader = aligned_alloc(64, (sizeof(*reader) + 63) / 64 * 64);
	ENSURE(reader);
	memset(reader, 0, sizeof(*reader));
	reader->copies = calloc(MCRD_MERGE_COPIES, sizeof(*reader->copies));
	ENSURE(reader->copies && flows_init(&reader->flows) == 0 && rules_init(&reader->rules) == 0);
	for (leg = 0; leg < MCRD_GUARD_SEEDS; leg++)
		reader->shared.seed[leg] = 0x9e3779b97f4a7c15ULL * (leg + 1U);
	guard_init(&reader->guard, &reader->shared);
	memcpy(source.address, own, sizeof(own));
	rules_own(&reader->rules, &source, 1);
	reader->now = 1700000000000000000ULL;
	for (slot = 0; slot < RULES; slot++) {
		put_rule(&reader->rules, slot);
		for (leg = 0; leg < MCRD_LEGS; leg++)
			reader->legs[slot][leg] = (struct merge_settings){
				.stream = STREAM + 16 * slot,
				.by = (uint8_t)(MERGE_RTP + slot % 4),
				.leg = (uint8_t)leg,
				.offset = slot,
				.bytes = (uint8_t)(1 + slot % 8),
				.little = slot % 3 == 0,
			};
	}
}

/* As when the rules are put anew: each input begins with the same. */
static void begin_input(void)
{
	uint32_t slot, leg;

	reader->now += 10 * MERGE_WITHIN_NS;
	memset(reader->brought, 0, sizeof(reader->brought));
	memset(reader->seen, 0, sizeof(reader->seen));
	memset(reader->given, 0, sizeof(reader->given));
	for (slot = 0; slot < RULES; slot++) {
		struct inspect_settings settings = {
			.format = (uint8_t)(INSPECT_RTP + slot % 5), .offset = slot, .bytes = (uint8_t)(1 + slot % 8)
		};
		struct rule *rule = reader->rules.by_slot[slot];

		ENSURE(inspect_is_possible(&settings));
		rule->inspector = inspector_new(&settings, &reader->seen[slot], &reader->seed, &reader->used);
		ENSURE(rule->inspector);
		for (leg = 0; leg < MCRD_LEGS; leg++) {
			ENSURE(merge_is_possible(&reader->legs[slot][leg]));
			reader->stream[slot] = merge_join(&reader->streams, &reader->legs[slot][leg],
							  &reader->brought[slot][leg]);
			ENSURE(reader->stream[slot]);
		}
	}
}

/* Every datagram is in one of the counters, and in no two. */
static void end_input(void)
{
	uint32_t slot, leg;

	for (slot = 0; slot < RULES; slot++) {
		const struct inspect_counters *seen = &reader->seen[slot];
		uint64_t received = 0;

		ENSURE(seen->inspected + seen->not_inspected == reader->given[slot]);
		ENSURE(seen->other <= seen->inspected && seen->flows <= INSPECT_FLOWS);
		for (leg = 0; leg < MCRD_LEGS; leg++) {
			const struct merge_counters *of = &reader->brought[slot][leg];

			ENSURE(of->received == of->first + of->second + of->repeated);
			ENSURE(of->differs <= of->second);
			received += of->received;
			merge_leave(&reader->streams, reader->stream[slot], of);
		}
		ENSURE(received == reader->given[slot]);
		inspector_free(reader->rules.by_slot[slot]->inspector);
		reader->rules.by_slot[slot]->inspector = NULL;
	}
	ENSURE(reader->used == 0 && !reader->streams);
}

static void read_datagrams(struct rule *rule, const struct packet *packet, uint32_t size, uint32_t leg)
{
	uint32_t at = 0;

	do {
		uint32_t left = packet->payload_length - at, length = left < size ? left : size;
		const struct merge_settings *settings = &reader->legs[rule->slot][leg];
		struct merge_name name;

		merge_look(settings, reader->copies, &reader->guard, packet->payload + at, length, &name);
		merge_is_first(reader->stream[rule->slot], leg, reader->copies, &name, 0, reader->now);
		inspect(rule->inspector, packet, packet->payload + at, length, reader->now);
		reader->given[rule->slot]++;
		at += size;
	} while (at < packet->payload_length);
}

/* One frame, as arrival_look() and relay_all() do; it stands where its memory ends. */
static enum verdict read_frame(uint8_t flags, uint32_t segment, const uint8_t *data, uint32_t length)
{
	uint8_t *memory = malloc((size_t)length + 1);
	uint16_t vlan = flags & FLAG_TAGGED ? 100 : 0;
	int foreign = (flags & FLAG_FOREIGN) != 0;
	enum drop drop, expected_drop = DROP_UNMATCHED;
	struct rule *rule, *expected = NULL;
	struct packet packet;
	enum verdict verdict;
	struct frame frame = {
		.data = memory + 1,
		.captured = length,
		.length = flags & FLAG_CUT ? length + segment : length,
		.link = flags & FLAG_IP ? LINK_IP : LINK_ETHERNET,
		.checksum_known = (flags & FLAG_KNOWN) != 0,
	};

	ENSURE(memory);
	memcpy(memory + 1, data, length);
	memset(&packet, 0xff, sizeof(packet));
	verdict = packet_parse(&frame, &packet);
	if (verdict == PACKET_DATAGRAM) {
		packet.interface = 0;
		vlan = vlan ? vlan : packet.vlan & 0x0fff;
		rule = flows_decide(&reader->flows, &reader->rules, &packet, vlan, foreign, &drop);
		if (!foreign)
			expected = rules_match(&reader->rules, &packet, vlan, &expected_drop);
		if ((expected || expected_drop == DROP_UNMATCHED) && rules_is_own(&reader->rules, &packet))
			expected = NULL;
		ENSURE(rule == expected);
		if (rule)
			read_datagrams(rule, &packet, segment && segment < packet.payload_length ? segment :
				       packet.payload_length ? packet.payload_length : 1, flags >> LEGS_AT);
	}
	free(memory);
	return verdict;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!reader)
		begin();
	begin_input();
	while (size >= HEAD) {
		uint32_t length = look16(data + 1);

		length = length < size - HEAD ? length : (uint32_t)size - HEAD;
		reader->now += data[5] * 1000000ULL;
		read_frame(data[0], look16(data + 3), data + HEAD, length);
		data += HEAD + length;
		size -= HEAD + length;
	}
	end_input();
	return 0;
}

#ifndef FUZZER

enum { SEEDS = 256, SEED_ROOM = 2048, FRAMES = 8 };

struct seed {
	uint8_t data[SEED_ROOM];
	uint32_t length;
};

static struct seed seeds[SEEDS];
static uint32_t seed_count;

/* A line is a name, a verdict and the bytes in hexadecimal digits. */
static void read_corpus(const char *path)
{
	static const char *const verdicts[] = {
		[PACKET_DATAGRAM] = "datagram",   [PACKET_FOREIGN] = "foreign",     [PACKET_MALFORMED] = "malformed",
		[PACKET_BAD_CHECKSUM] = "bad_checksum", [PACKET_FRAGMENT] = "fragment", [PACKET_TRUNCATED] = "truncated",
	};
	static char name[64], verdict[32], text[2 * SEED_ROOM + 1];
	FILE *file = fopen(path, "r");

	ENSURE(file);
	while (fscanf(file, "%63s %31s %4096s", name, verdict, text) == 3) {
		struct seed *seed = &seeds[seed_count++];
		enum verdict found;
		char *at = text;

		ENSURE(seed_count <= SEEDS);
		for (; at[0] && at[1]; at += 2) {
			unsigned int byte;

			ENSURE(sscanf(at, "%2x", &byte) == 1);
			seed->data[seed->length++] = (uint8_t)byte;
		}
		begin_input();
		found = read_frame(0, 0, seed->data, seed->length);
		end_input();
		if (strcmp(verdicts[found], verdict)) {
			fprintf(stderr, "%s: %s, not %s\n", name, verdicts[found], verdict);
			exit(1);
		}
	}
	ENSURE(feof(file) && seed_count > 0);
	fclose(file);
}

/* Where the IP header is: behind up to two tags. */
static uint32_t network_of(const struct seed *seed)
{
	uint32_t at = 12;

	while (at + 4 <= seed->length && at < 20 && (look16(seed->data + at) & 0xfeff) != 0x0800 &&
	       look16(seed->data + at) != 0x86dd)
		at += 4;
	return at + 2;
}

static void mutate(struct seed *seed)
{
	uint32_t network = network_of(seed), rounds = below(4), i;

	for (i = 0; i < rounds && seed->length > 0; i++) {
		uint32_t headers = seed->length < network + 60 ? seed->length : network + 60, at;

		switch (below(5)) {
		case 0:
			seed->data[below(seed->length)] ^= (uint8_t)(1U << below(8));
			break;
		case 1:
			seed->data[below(headers)] = (uint8_t)below(256);
			break;
		case 2: /* a length, wherever it may be */
			at = below(headers);
			if (at + 2 <= seed->length)
				set16(seed->data + at, length_near(look16(seed->data + at)));
			break;
		case 3: /* the numbers of a stream */
			at = network + 28 + below(24);
			if (at < seed->length)
				seed->data[at] = (uint8_t)(seed->data[at] + below(5) - 2);
			break;
		default:
			seed->length = below(seed->length + 1);
			break;
		}
	}
	/* Else hardly anything got past the checksums. */
	if (network + 20 <= seed->length && seed->data[network] >> 4 == 4 && below(8) &&
	    network + (seed->data[network] & 15) * 4U <= seed->length)
		sum_ipv4(seed->data + network);
}

int main(int argc, char **argv)
{
	unsigned long long count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000000, done = 0;
	static uint8_t input[FRAMES * (HEAD + SEED_ROOM)];

	ENSURE(argc > 1);
	if (argc > 3)
		mutate_state = strtoull(argv[3], NULL, 10) | 1;
	begin();
	read_corpus(argv[1]);
	while (done < count) {
		uint32_t frames = 1 + below(FRAMES), which = below(seed_count), size = 0, i;

		for (i = 0; i < frames; i++) {
			struct seed seed;

			if (below(3) == 0)
				which = below(seed_count);
			seed = seeds[which];
			mutate(&seed);
			/* Mostly with a checksum that somebody vouches for. */
			input[size] = (uint8_t)((below(8) ? FLAG_KNOWN : 0) | (below(32) ? 0 : FLAG_IP) |
						(below(32) ? 0 : FLAG_FOREIGN) | (below(16) ? 0 : FLAG_TAGGED) |
						(below(16) ? 0 : FLAG_CUT) | below(4) << LEGS_AT);
			set16(input + size + 1, seed.length);
			set16(input + size + 3, below(2) ? 0 : length_near(1328));
			input[size + 5] = (uint8_t)below(256);
			memcpy(input + size + HEAD, seed.data, seed.length);
			size += HEAD + seed.length;
		}
		LLVMFuzzerTestOneInput(input, size);
		done += frames;
	}
	printf("%llu frames of %u\n", done, seed_count);
	rules_free(&reader->rules);
	free(reader->copies);
	free(reader);
	return 0;
}

#endif
