/* dedupe.c: the same payload is known for a time, whoever sends it, and no other is.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "dedupe.h"

#include <string.h>

#include "check.h"

enum { WITHIN = 200, LARGEST = 2000 };

static struct guard_memory *memory;
static struct guard *guards[2]; /* of two workers */
static struct rule rules[2];

static void begin(uint64_t random)
{
	uint32_t i;

	memory = check_allocate(sizeof(*memory));
	memset(memory, 0, sizeof(*memory));
	for (i = 0; i < MCRD_GUARD_SEEDS; i++)
		memory->seed[i] = (uint64_t)check_random(&random) << 32 | check_random(&random);
	for (i = 0; i < 2; i++) {
		guards[i] = check_allocate(sizeof(*guards[i]));
		guard_init(guards[i], memory);
		rules[i] = (struct rule){ .match = { .dedupe = WITHIN, .vlan = (uint16_t)i } };
		rules[i].dedupe_about = dedupe_about(&rules[i].match, NULL, 7);
	}
}

static void end(void)
{
	free(guards[0]);
	free(guards[1]);
	free(memory);
}

/* `payload` stands in memory that holds no byte more. */
static int knows(uint32_t worker, uint32_t rule, uint32_t destination, uint32_t ms, const uint8_t *payload, uint32_t length)
{
	struct guard_frame frame = { .destination = destination, .now = ms };
	uint8_t *held = check_allocate(length ? length : 1);
	int found;

	if (length)
		memcpy(held, payload, length);
	found = dedupe_knows(guards[worker], &rules[rule], &frame, held, length);
	free(held);
	return found;
}

static void test_the_time(uint32_t now)
{
	const uint8_t *payload = (const uint8_t *)"the same", *other = (const uint8_t *)"another!";

	check_about("the time");
	begin(3);
	CHECK_EQUAL(knows(0, 0, 1, now, payload, 8), 0);
	CHECK_EQUAL(knows(0, 0, 1, now, payload, 8), 1);
	CHECK_EQUAL(knows(1, 0, 1, now + 1, payload, 8), 1); /* another worker's */
	CHECK_EQUAL(knows(0, 0, 1, now - 1, payload, 8), 1); /* by the clock of another CPU */
	CHECK_EQUAL(knows(0, 0, 1, now, other, 8), 0);
	CHECK_EQUAL(knows(0, 0, 1, now, payload, 7), 0);
	CHECK_EQUAL(knows(0, 0, 2, now, payload, 8), 0); /* to another destination */
	CHECK_EQUAL(knows(0, 1, 1, now, payload, 8), 0); /* of another rule */
	CHECK_EQUAL(knows(0, 0, 1, now + WITHIN - 1, payload, 8), 1);
	CHECK_EQUAL(knows(0, 0, 1, now + WITHIN, payload, 8), 0); /* since it was relayed, not since it came */
	CHECK_EQUAL(knows(0, 0, 1, now + 2 * WITHIN - 1, payload, 8), 1);
	CHECK_EQUAL(knows(0, 0, 1, now - 5000, payload, 8), 0); /* the clock was set */
	CHECK_EQUAL(knows(0, 0, 1, now - 5000, payload, 8), 1);
	CHECK_EQUAL(knows(0, 0, 1, now, NULL, 0), 0);
	CHECK_EQUAL(knows(0, 0, 1, now, NULL, 0), 1);
	end();
}

/* Of any length, whichever bit differs. */
static void test_all_bytes_count(void)
{
	uint8_t payload[LARGEST];
	uint64_t random = 5;
	uint32_t length, round, i;

	check_about("all bytes");
	begin(4);
	for (length = 1; length <= LARGEST; length += length < 100 ? 1 : 97) {
		for (i = 0; i < length; i++)
			payload[i] = (uint8_t)check_random(&random);
		CHECK_EQUAL(knows(0, 0, length, 1000, payload, length), 0);
		for (round = 0; round < 40 && round < 8 * length; round++) {
			uint32_t bit = length < 5 ? round : check_random(&random) % (8 * length);
			int seen;

			payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
			seen = knows(0, 0, length, 1000, payload, length);
			payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
			if (length < 5 || round == 0) /* later ones may be one bit again */
				CHECK_EQUAL(seen, 0);
			CHECK_EQUAL(knows(0, 0, length, 1000, payload, length), 1);
		}
	}
	end();
}

/* A tenth of what there is room for: next to none pushes out another one. */
static void test_many(void)
{
	enum { MANY = MCRD_DEDUPE_PAYLOADS / 10 };
	uint32_t i, missed = 0;

	check_about("many");
	begin(6);
	for (i = 0; i < MANY; i++)
		CHECK_EQUAL(knows(0, 0, 1, 1000 + i / 1000, (const uint8_t *)&i, sizeof(i)), 0);
	for (i = 0; i < MANY; i++)
		missed += !knows(1, 0, 1, 1100, (const uint8_t *)&i, sizeof(i));
	CHECK(missed <= MANY / 500);
	/* Beyond that, what is oldest is forgotten. */
	for (i = 0; i < 4 * MCRD_DEDUPE_PAYLOADS; i++)
		CHECK_EQUAL(knows(0, 0, 1, 2000, (const uint8_t *)&(uint64_t){ i + (1ULL << 40) }, 8), 0);
	end();
}

/* What comes again after its time has its own place again, and takes none from what shares its set. */
static void test_it_keeps_its_place(void)
{
	enum { SETS = MCRD_DEDUPE_PAYLOADS / 4, DESTINATION = 1 };
	uint64_t wanted = SETS, set;
	uint32_t number, first = 0;

	check_about("its place");
	begin(8);
	for (number = 0;; number++) {
		set = (guard_hash(guards[0], DESTINATION + rules[0].dedupe_about, (const uint8_t *)&number, 4) >> 32) % SETS;
		if (number == first)
			wanted = set;
		else if (set == wanted)
			break;
	}
	CHECK_EQUAL(knows(0, 0, DESTINATION, 1000, (const uint8_t *)&first, 4), 0);
	CHECK_EQUAL(knows(0, 0, DESTINATION, 1000, (const uint8_t *)&number, 4), 0);
	CHECK_EQUAL(knows(0, 0, DESTINATION, 1000 + WITHIN, (const uint8_t *)&first, 4), 0);
	CHECK_EQUAL(knows(0, 0, DESTINATION, 1000 + WITHIN, (const uint8_t *)&number, 4), 0);
	CHECK_EQUAL(knows(0, 0, DESTINATION, 1001 + WITHIN, (const uint8_t *)&first, 4), 1);
	CHECK_EQUAL(knows(0, 0, DESTINATION, 1001 + WITHIN, (const uint8_t *)&number, 4), 1);
	end();
}

/* The worker that replaces another knows the payloads of a rule by all that it takes. */
static void test_rules_are_told_apart(void)
{
	const struct network networks[] = { { { 10, 0, 0, 1 }, 32 }, { { 10, 0, 0, 2 }, 32 } };
	const struct rule_match plain = { .first = { .address = { 239, 1, 1, 1 }, .port = 5000 }, .last_port = 5000, .bits = 32 };
	struct rule_match others[] = { plain, plain, plain, plain, plain, plain, plain, plain };
	enum { OTHERS = sizeof(others) / sizeof(others[0]) };
	uint64_t seen[OTHERS + 2];
	uint32_t i, j;

	check_about("rules");
	others[1].first.address[3] = 2;
	others[2].first.port = 4999;
	others[3].last_port = 5001;
	others[4].bits = 31;
	others[5].vlan = 1;
	others[6].source_count = 1;
	others[7].exclude_count = 1;
	for (i = 0; i < OTHERS; i++)
		seen[i] = dedupe_about(&others[i], networks, 7);
	seen[OTHERS] = dedupe_about(&others[6], networks + 1, 7);
	seen[OTHERS + 1] = dedupe_about(&plain, networks, 8);
	for (i = 0; i < OTHERS + 2; i++)
		for (j = 0; j < i; j++)
			CHECK(seen[i] != seen[j]);
	CHECK_EQUAL(dedupe_about(&plain, networks + 1, 7), seen[0]);
}

int main(void)
{
	test_the_time(1000000);
	test_the_time(100); /* the counter has just begun anew */
	test_all_bytes_count();
	test_many();
	test_it_keeps_its_place();
	test_rules_are_told_apart();
	return check_result();
}
