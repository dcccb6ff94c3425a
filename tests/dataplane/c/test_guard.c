/* guard.c: what loops ends, whatever the relays are wired like; and nothing else is lost.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "guard.h"

#include <string.h>

#include "check.h"

enum { SECOND = 1000, RELAYS = 5, NETWORKS = 4, COPIES_MAX = 20000, LATEST = 20 };

static struct guard_memory *new_memory(uint64_t random)
{
	struct guard_memory *memory = check_allocate(sizeof(*memory));
	uint32_t i;

	memset(memory, 0, sizeof(*memory));
	for (i = 0; i < MCRD_GUARD_SEEDS; i++)
		memory->seed[i] = (uint64_t)check_random(&random) << 32 | check_random(&random);
	return memory;
}

static struct guard *new_guard(struct guard_memory *memory)
{
	struct guard *guard = check_allocate(sizeof(*guard));

	guard_init(guard, memory);
	return guard;
}

/* `ms` counts from any time on. */
static void look(struct guard *guard, uint32_t interface, uint32_t sender, uint64_t ms, const uint8_t *payload,
		 uint32_t length, struct guard_frame *whose)
{
	static uint8_t header[42]; /* it is read later on */
	struct frame frame = { .data = header, .link = LINK_ETHERNET };
	struct packet packet = {
		.source = header + 26, .destination = header + 30, .destination_port = 5353, .family = 4, .protocol = 17,
	};

	memcpy(header + 6, &sender, sizeof(sender));
	memcpy(header + 26, &sender, sizeof(sender));
	header[22] = 255;
	memcpy(header + 30, "\340\0\0\373", 4);
	guard_look(guard, &frame, &packet, interface, interface, ms * 1000000, whose);
	guard_next(guard, whose, payload, length, length);
}

static enum guard_answer said(struct guard *guard, uint32_t interface, uint32_t sender, uint64_t ms,
			      const uint8_t *payload, uint32_t length)
{
	struct guard_frame whose;

	look(guard, interface, sender, ms, payload, length, &whose);
	return guard_ask(guard, &whose, payload, length);
}

static enum guard_answer says(struct guard *guard, uint32_t sender, uint64_t ms, const char *text)
{
	return said(guard, 1, sender, ms, (const uint8_t *)text, (uint32_t)strlen(text));
}

static void test_one_sender(void)
{
	struct guard_memory *memory = new_memory(1);
	struct guard *guard = new_guard(memory);
	uint64_t ms, i;

	check_about("the same bytes");
	CHECK_EQUAL(says(guard, 7, 5000, "x"), GUARD_PASS);
	for (i = 0; i < 100000; i++) /* 10,000 a second */
		CHECK_EQUAL(says(guard, 7, 5000 + i / 10, "x"), GUARD_REPEAT);
	for (ms = 20000; ms < 100000; ms += 1000)
		CHECK_EQUAL(says(guard, 7, ms, "x"), GUARD_PASS); /* each second */
	free(guard);
	free(memory);
}

static void test_many_hosts(void)
{
	struct guard_memory *memory = new_memory(2);
	struct guard *guard = new_guard(memory);
	uint32_t round, host, time;

	check_about("M-SEARCH");
	for (round = 0; round < 20; round++)
		for (time = 0; time < 3; time++)
			for (host = 1; host <= 100; host++)
				CHECK(says(guard, host, round * 700 + time * 40 + host % 30, "M-SEARCH") != GUARD_LOOPED);
	free(guard);
	free(memory);
}

static void test_two_heartbeats(void)
{
	struct guard_memory *memory = new_memory(3);
	struct guard *guard = new_guard(memory);
	uint32_t tick, lost = 0;

	check_about("two heartbeats");
	for (tick = 0; tick < 1200; tick++) {
		if (tick < 600 || tick >= 900) /* the first fails, and comes again */
			lost += says(guard, 1, 100 * tick, "alive") == GUARD_LOOPED;
		lost += says(guard, 2, 100 * tick + 13, "alive") == GUARD_LOOPED;
		if (tick >= 300)
			lost += says(guard, 3, 100 * tick + 50, "alive") == GUARD_LOOPED;
	}
	CHECK_EQUAL(lost, 0);
	free(guard);
	free(memory);
}

/* Counters that many hosts send to one collector: the same bytes, at rates that have nothing to do with each other. */
static void test_unequal_senders(uint32_t before)
{
	struct guard_memory *memory = new_memory(4);
	struct guard *guard = new_guard(memory);
	const uint32_t begin = 100 * SECOND;
	uint32_t ms, lost = 0, late = 0, i;

	check_about(before ? "unequal senders after a burst" : "unequal senders");
	for (i = 0; i < before; i++)
		CHECK(says(guard, 1, begin, "requests:1|c") != GUARD_LOOPED);
	for (ms = begin; ms < begin + 20 * SECOND; ms++) {
		if (ms % 10 == 0)
			CHECK(says(guard, 1, ms, "requests:1|c") != GUARD_LOOPED);
		if (says(guard, 2, ms, "requests:1|c") == GUARD_LOOPED) {
			lost++;
			late = ms;
		}
	}
	CHECK(lost > 0 && lost <= 3 * GUARD_WITHIN + 10);
	CHECK(late < begin + 2 * SECOND);
	/* What a sender of its own says is known as long as what the first one says. */
	CHECK_EQUAL(says(guard, 1, ms, "anew"), GUARD_PASS);
	CHECK_EQUAL(says(guard, 2, ms + GUARD_WITHIN - 100, "anew"), GUARD_COPY);
	CHECK_EQUAL(says(guard, 1, ms + 2 * GUARD_WITHIN - 200, "anew"), GUARD_REPEAT);
	/* For how long it is believed to be one. */
	for (i = 0; i < 10; i++)
		CHECK_EQUAL(says(guard, 2, ms + 2 * GUARD_WITHIN - 200, "anew"), GUARD_COPY);
	ms += 2 * GUARD_WITHIN + GUARD_REMEMBER;
	CHECK_EQUAL(says(guard, 1, ms, "later"), GUARD_PASS);
	for (i = 0; i < 4; i++)
		CHECK_EQUAL(says(guard, 2, ms, "later"), GUARD_COPY);
	CHECK_EQUAL(says(guard, 2, ms, "later"), GUARD_LOOPED);
	free(guard);
	free(memory);
}

/* A stream through a loop: of the first contents a few copies pass, then none. */
static void test_neighbour_that_returns(void)
{
	struct guard_memory *memory = new_memory(5);
	struct guard *guard = new_guard(memory);
	uint32_t number, copy, passed = 0, later = 0;
	uint8_t payload[200] = { 0 };

	check_about("a neighbour that returns");
	for (number = 0; number < 1000; number++) {
		memcpy(payload + 100, &number, sizeof(number)); /* what differs is in none of the samples */
		memcpy(payload, &number, sizeof(number));
		CHECK_EQUAL(said(guard, 1, 1, 1000 + number, payload, sizeof(payload)), GUARD_PASS);
		for (copy = 0; copy < 10; copy++)
			if (said(guard, 1, 2, 1000 + number, payload, sizeof(payload)) == GUARD_COPY) {
				passed++;
				later += number >= 2;
			}
	}
	CHECK_EQUAL(passed, 8);
	CHECK_EQUAL(later, 0);
	/* It says something of its own: that passes, even where it is much like what another one says. */
	memcpy(payload, "own", 3);
	CHECK_EQUAL(said(guard, 1, 2, 2100, payload, sizeof(payload)), GUARD_PASS);
	memcpy(payload, "alike", 5);
	CHECK_EQUAL(said(guard, 1, 1, 2100, payload, sizeof(payload)), GUARD_PASS);
	payload[100] ^= 1;
	CHECK_EQUAL(said(guard, 1, 2, 2100, payload, sizeof(payload)), GUARD_COPY);
	payload[100] ^= 1;
	CHECK_EQUAL(said(guard, 1, 2, 2100, payload, sizeof(payload)), GUARD_LOOPED);
	/* It is not for ever. */
	for (copy = 0; copy < 4; copy++) {
		CHECK(says(guard, 1, 70 * SECOND, "anew") != GUARD_LOOPED);
		CHECK_EQUAL(says(guard, 2, 70 * SECOND, "anew"), GUARD_COPY);
	}
	free(guard);
	free(memory);
}

/* At 0 ms too. */
static void test_a_neighbour_that_returns_as_the_clock_wraps(void)
{
	static const char *const contents[] = { "one", "two" };
	struct guard_memory *memory = new_memory(13);
	struct guard *guard = new_guard(memory);
	const uint64_t ms = 1ULL << 32;
	uint32_t i, j;

	check_about("a neighbour that returns, at 0 ms");
	for (i = 0; i < 2; i++) {
		CHECK_EQUAL(says(guard, 1, ms, contents[i]), GUARD_PASS);
		for (j = 0; j < 4; j++)
			CHECK_EQUAL(says(guard, 2, ms, contents[i]), GUARD_COPY);
		CHECK_EQUAL(says(guard, 2, ms, contents[i]), GUARD_LOOPED);
	}
	CHECK_EQUAL(says(guard, 1, ms, "three"), GUARD_PASS);
	CHECK_EQUAL(says(guard, 2, ms, "three"), GUARD_LOOPED);
	free(guard);
	free(memory);
}

/* Each datagram of a super-frame is what it is alone; the last one may be shorter. */
static void test_super_frames(uint32_t size)
{
	struct guard_memory *memory = new_memory(12);
	struct guard *guard = new_guard(memory);
	uint64_t random = 12;
	uint32_t length, i;

	check_about("super-frames");
	for (length = 1; length <= 2 * GUARD_AHEAD * size + 1; length += 1 + size / 3) {
		uint8_t *payload = check_allocate(length), *at = payload; /* no byte more: the sanitizer looks */
		uint32_t count = (length + size - 1) / size, left = length;
		struct guard_frame whose, alone;

		for (i = 0; i < length; i++)
			payload[i] = (uint8_t)check_random(&random);
		look(guard, 1, 1, 1000, payload, length, &whose);
		CHECK_EQUAL(whose.ahead, 0);
		for (i = 0; i < count; i++, at += size, left -= size) {
			uint32_t here = left < size ? left : size;

			guard_next(guard, &whose, at, left, size);
			look(guard, 1, 1, 1000, at, here, &alone);
			CHECK(whose.content == alone.content);
			if (i == 0)
				CHECK_EQUAL(whose.ahead, (count < GUARD_AHEAD ? count : GUARD_AHEAD) - 1);
		}
		free(payload);
	}
	free(guard);
	free(memory);
}

static void test_lengths(void)
{
	struct guard_memory *memory = new_memory(6);
	struct guard *guard = new_guard(memory);
	uint32_t length, other;

	check_about("lengths");
	for (length = 0; length < 200; length++) {
		uint8_t *payload = check_allocate(length ? length : 1); /* no byte more: the sanitizer looks */

		memset(payload, 0, length);
		CHECK_EQUAL(said(guard, 1, 1, length * 1000ULL, payload, length), GUARD_PASS);
		CHECK_EQUAL(said(guard, 1, 1, length * 1000ULL, payload, length), GUARD_REPEAT);
		for (other = 0; other < length; other++) {
			if (length > 64 && other >= 48 && other < length - 16)
				continue; /* that is for who is known to return things */
			payload[other] ^= 0x40;
			CHECK_EQUAL(said(guard, 1, 2, length * 1000ULL, payload, length), GUARD_PASS);
			payload[other] ^= 0x40;
		}
		free(payload);
	}
	free(guard);
	free(memory);
}

enum { HARDWARE = 6, HOPS = 15, SOURCE = 20, DESTINATION = 36, AFTER = 52 };

/* Says "x" at 1 s; the interface is the last byte but two, protocol and port what follows. */
static enum guard_answer says_by(struct guard *guard, uint8_t family, const uint8_t *header)
{
	const uint8_t *payload = (const uint8_t *)"x";
	struct frame frame = { .data = header, .link = LINK_ETHERNET };
	struct packet packet = {
		.source = header + SOURCE,
		.destination = header + DESTINATION,
		.destination_port = header[AFTER + 2],
		.family = family,
		.protocol = header[AFTER + 1],
	};
	struct guard_frame whose;

	guard_look(guard, &frame, &packet, header[AFTER], 3, 1000000000, &whose);
	guard_next(guard, &whose, payload, 1, 1);
	return guard_ask(guard, &whose, payload, 1);
}

/* Each byte of whom and by whom matters, and no other. */
static void test_whose_it_is(uint8_t family)
{
	const uint32_t hops = family == 6 ? SOURCE - 1 : SOURCE - 4, size = family == 6 ? 16 : 4;
	uint8_t header[AFTER + 3];
	uint32_t at;

	check_about(family == 6 ? "whose it is, of IPv6" : "whose it is");
	for (at = 0; at < sizeof(header); at++) {
		struct guard_memory *memory = new_memory(10);
		struct guard *guard = new_guard(memory);
		int sender = (at >= HARDWARE && at < HARDWARE + 6) || at == hops || at == AFTER ||
			     (at >= SOURCE && at < SOURCE + size);
		int destination = at > AFTER || (at >= DESTINATION && at < DESTINATION + size);

		if (at == HARDWARE - 1 || at == HARDWARE - 2) /* the end of our own address */
			sender = 1;
		memset(header, 7, sizeof(header));
		CHECK_EQUAL(says_by(guard, family, header), GUARD_PASS);
		CHECK_EQUAL(says_by(guard, family, header), GUARD_REPEAT);
		header[at]++;
		CHECK_EQUAL(says_by(guard, family, header), destination ? GUARD_PASS : sender ? GUARD_COPY : GUARD_REPEAT);
		free(guard);
		free(memory);
	}
}

/* Some numbers, with contents that share their two places. */
static void share_places(struct guard *guard, uint32_t *numbers, uint32_t count)
{
	const uint64_t buckets = MCRD_GUARD_CONTENTS / MCRD_GUARD_WAYS;
	uint64_t wanted = buckets;
	uint32_t number, found = 0;

	for (number = 0; found < count; number++) {
		struct guard_frame whose;

		look(guard, 1, 1, 0, (const uint8_t *)&number, sizeof(number), &whose);
		if (wanted == buckets)
			wanted = whose.content % buckets;
		if (whose.content % buckets == wanted)
			numbers[found++] = number;
	}
}

static void test_what_is_forgotten_first(void)
{
	enum { LONG = GUARD_WITHIN + 1, TIMES = 10 };
	/* When which of four contents is said, and what is answered: from the first letter of PASS and REPEAT. */
	static const struct {
		const char *about;
		struct {
			uint32_t ms, which;
			char answer;
		} said[TIMES];
	} cases[] = {
		{ "the older one goes", { { 0, 1, 'P' }, { 9, 2, 'P' }, { 20, 3, 'P' }, { 21, 2, 'R' }, { 22, 3, 'R' } } },
		{ "the older one is the second",
		  { { 0, 1, 'P' }, { 9, 2, 'P' }, { 20, 3, 'P' }, { 30, 4, 'P' }, { 31, 3, 'R' }, { 32, 4, 'R' } } },
		{ "what was said again stays",
		  { { 0, 1, 'P' }, { 1, 1, 'R' }, { 9, 2, 'P' }, { 20, 3, 'P' }, { 21, 1, 'R' }, { 22, 3, 'R' } } },
		{ "what was said again stays in the second",
		  { { 0, 1, 'P' }, { 1, 2, 'P' }, { 2, 2, 'R' }, { 20, 3, 'P' }, { 21, 2, 'R' }, { 22, 3, 'R' } } },
		{ "of two that were said again, the older one goes",
		  { { 0, 1, 'P' }, { 1, 1, 'R' }, { 2, 2, 'P' }, { 3, 2, 'R' }, { 20, 3, 'P' }, { 21, 2, 'R' } } },
		{ "what is over goes, though it was said again",
		  { { 0, 1, 'P' }, { 0, 1, 'R' }, { LONG - 10, 2, 'P' }, { LONG, 3, 'P' }, { LONG, 2, 'R' } } },
		{ "what is over goes from the second",
		  { { 0, 1, 'P' }, { 0, 2, 'P' }, { 0, 2, 'R' }, { LONG - 10, 1, 'R' }, { LONG, 3, 'P' }, { LONG, 1, 'R' } } },
		{ "what is not over yet stays",
		  { { 0, 1, 'P' }, { 0, 1, 'R' }, { LONG - 10, 2, 'P' }, { LONG - 1, 3, 'P' }, { LONG - 1, 1, 'R' } } },
	};
	uint32_t numbers[5], i, j;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct guard_memory *memory = new_memory(11);
		struct guard *guard = new_guard(memory);

		check_about(cases[i].about);
		share_places(guard, numbers, 5);
		for (j = 0; j < TIMES && cases[i].said[j].answer; j++) {
			const uint8_t *payload = (const uint8_t *)&numbers[cases[i].said[j].which];

			CHECK_EQUAL(said(guard, 1, 1, 1000 * SECOND + cases[i].said[j].ms, payload, sizeof(numbers[0])),
				    cases[i].said[j].answer == 'P' ? GUARD_PASS : GUARD_REPEAT);
		}
		free(guard);
		free(memory);
	}
}

/* The clock of the frames wraps (in ms, after 49 days), is set, and is not quite in order. */
static void test_times(void)
{
	struct guard_memory *memory = new_memory(7);
	struct guard *guard = new_guard(memory);
	uint64_t base = (1ULL << 32) - 3, i;

	check_about("times");
	for (i = 0; i < 4; i++) {
		CHECK(says(guard, 1, base + i, "wrap") != GUARD_LOOPED);
		CHECK_EQUAL(says(guard, 2, base + i - (i > 0), "wrap"), GUARD_COPY);
	}
	CHECK(says(guard, 1, base - 100000, "wrap") == GUARD_PASS);
	CHECK(says(guard, 1, base + 100000, "wrap") == GUARD_PASS);
	free(guard);
	free(memory);
}

/* Somebody who has taken over another worker writes there. */
static void test_a_hostile_memory(void)
{
	struct guard_memory *memory = new_memory(8);
	struct guard *guard = new_guard(memory);
	uint64_t random = 8, step;
	uint32_t lost = 0;

	check_about("a hostile memory");
	for (step = 0; step < 100000; step++) {
		uint32_t i = check_random(&random) % MCRD_GUARD_CONTENTS, number = (uint32_t)step;
		uint32_t *wild = (uint32_t *)(void *)&memory->contents[i];
		uint32_t *details = (uint32_t *)(void *)&memory->details[i];

		wild[check_random(&random) % 4] = check_random(&random);
		details[check_random(&random) % 4] = check_random(&random);
		memory->armed = check_random(&random);
		lost += said(guard, 1, 1, step, (const uint8_t *)&number, sizeof(number)) == GUARD_LOOPED;
	}
	CHECK_EQUAL(lost, 0); /* what nobody can foretell nobody can suppress */
	free(guard);
	free(memory);
}

/* Relays at random: each hands what comes from a network on to some others. All is own source. */
struct copy {
	uint32_t network, sender, at;
};

static uint32_t storm(uint64_t *random, uint32_t *bound)
{
	static struct copy queue[COPIES_MAX];
	struct guard_memory *memories[RELAYS];
	struct guard *guards[RELAYS][NETWORKS];
	uint8_t rules[RELAYS][NETWORKS][NETWORKS] = { 0 };
	uint32_t relay, from, to, first = 0, count = 1, relays = 2 + check_random(random) % (RELAYS - 1), edges = 0;

	for (relay = 0; relay < relays; relay++) {
		memories[relay] = new_memory(check_random(random) + 1);
		for (from = 0; from < NETWORKS; from++) {
			guards[relay][from] = new_guard(memories[relay]);
			for (to = 0; to < NETWORKS; to++)
				rules[relay][from][to] = from != to && check_random(random) % 2;
		}
		for (from = 0; from < NETWORKS; from++)
			for (to = 0; to < NETWORKS; to++)
				edges += rules[relay][from][to];
	}
	/* Of each sender that a relay hears, some four. */
	*bound = edges * (4 * relays * NETWORKS + 1) + 1;
	queue[0] = (struct copy){ .network = 0, .sender = 99, .at = 1000 };
	while (first < count && count < COPIES_MAX - RELAYS * NETWORKS) {
		struct copy here;
		uint32_t soonest = first, i;

		for (i = first; i < count; i++)
			if (queue[i].at < queue[soonest].at)
				soonest = i;
		here = queue[soonest];
		queue[soonest] = queue[first++];
		for (relay = 0; relay < relays; relay++) {
			int any = 0;

			if (here.sender / NETWORKS == relay + 100)
				continue; /* own_output, or that nobody hears what it sends itself */
			for (to = 0; to < NETWORKS; to++)
				any |= rules[relay][here.network][to];
			if (!any || said(guards[relay][here.network], here.network, here.sender, here.at,
					 (const uint8_t *)"storm", 5) == GUARD_LOOPED)
				continue;
			for (to = 0; to < NETWORKS; to++)
				if (rules[relay][here.network][to])
					queue[count++] = (struct copy){
						.network = to,
						.sender = (relay + 100) * NETWORKS + to,
						.at = here.at + check_random(random) % LATEST,
					};
		}
	}
	for (relay = 0; relay < relays; relay++) {
		for (from = 0; from < NETWORKS; from++)
			free(guards[relay][from]);
		free(memories[relay]);
	}
	return count;
}

static void test_storms(void)
{
	uint64_t random = 9;
	uint32_t round, bound, copies, most = 0;

	check_about("storms");
	for (round = 0; round < 150; round++) {
		copies = storm(&random, &bound);
		CHECK(copies <= bound);
		if (copies > most)
			most = copies;
	}
	CHECK(most > 20); /* some did loop */
}

int main(void)
{
	test_one_sender();
	test_many_hosts();
	test_two_heartbeats();
	test_unequal_senders(0);
	test_unequal_senders(3000);
	test_neighbour_that_returns();
	test_a_neighbour_that_returns_as_the_clock_wraps();
	test_super_frames(1);
	test_super_frames(100);
	test_lengths();
	test_whose_it_is(4);
	test_whose_it_is(6);
	test_what_is_forgotten_first();
	test_times();
	test_a_hostile_memory();
	test_storms();
	return check_result();
}
