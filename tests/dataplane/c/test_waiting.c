/* waiting.c against a model: what waits is kept as it is and in order, each rule has its share, and nothing is lost of
 * the memory.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "waiting.h"

#include <string.h>

#include "check.h"

enum { RULES = 3, QUEUES = 12, STEPS = 200000, LARGEST = 65535 };

static uint8_t bytes[LARGEST + 256];

/* What a packet of that number holds. */
static const uint8_t *payload_of(uint32_t number)
{
	return bytes + number % 251;
}

static uint32_t length_of(uint64_t *random)
{
	uint32_t kind = check_random(random) % 16;

	return kind == 0 ? LARGEST - check_random(random) % 1000 : kind < 3 ? 0 : check_random(random) % 3000;
}

struct expected {
	uint32_t number, length;
};

static struct model {
	struct expected packets[WAITING_BYTES / WAITING_LEAST + 1]; /* a circle */
	uint32_t first, count;
} models[QUEUES];

enum { CIRCLE = sizeof(models[0].packets) / sizeof(models[0].packets[0]) };

static void check_first(const struct waiting_queue *queue, const struct model *model)
{
	const struct waiting_packet *packet = queue->first;

	CHECK_EQUAL(packet != NULL, model->count > 0);
	if (!packet || model->count == 0)
		return;
	CHECK_EQUAL(packet->length, model->packets[model->first].length);
	CHECK_EQUAL(packet->since, model->packets[model->first].number);
	CHECK(memcmp(packet->payload, payload_of(model->packets[model->first].number), packet->length) == 0);
}

static void test_against_a_model(void)
{
	struct waiting *waiting = check_allocate(sizeof(*waiting));
	static struct waiting_queue queues[QUEUES];
	uint64_t random = 7;
	uint32_t step, i, live = 0, refused = 0, most = 0;

	check_about("model");
	CHECK_EQUAL(waiting_init(waiting, WAITING_BYTES), 0);
	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)check_random(&random);
	for (step = 0; step < STEPS; step++) {
		uint32_t which = check_random(&random) % QUEUES, length = length_of(&random), kept = 0;
		uint32_t filling = step / 4096 % 2; /* in turn, so that it is full and empty */
		struct model *model = &models[which];
		const struct waiting_packet *oldest;

		if (check_random(&random) % 8 < (filling ? 7 : 1)) {
			if (waiting_has_room(waiting, which % RULES, length)) {
				waiting_add(waiting, &queues[which], which % RULES, payload_of(step), length, step);
				model->packets[(model->first + model->count++) % CIRCLE] =
					(struct expected){ step, length };
				live++;
			} else {
				refused++;
			}
		} else if (queues[which].first) {
			check_first(&queues[which], model);
			waiting_end(waiting, &queues[which]);
			model->first = (model->first + 1) % CIRCLE;
			model->count--;
			live--;
		}
		check_first(&queues[which], model);
		most = waiting->used > most ? waiting->used : most;
		CHECK(waiting->used <= WAITING_BYTES);
		for (i = 0; i < RULES; i++)
			kept += waiting->taken[i];
		CHECK_EQUAL(kept, waiting->used);
		oldest = waiting_oldest(waiting);
		CHECK_EQUAL(oldest != NULL, live > 0);
		for (i = 0; oldest && i < QUEUES; i++)
			CHECK(models[i].count == 0 || oldest->since <= models[i].packets[models[i].first].number);
		if (oldest)
			CHECK(oldest->queue && oldest->queue->first == oldest);
	}
	CHECK(refused > 1000);
	CHECK(most > WAITING_BYTES / 4 * 3);
	for (i = 0; i < QUEUES; i++)
		while (queues[i].first)
			waiting_end(waiting, &queues[i]);
	CHECK_EQUAL(waiting->used, 0);
	CHECK(waiting_oldest(waiting) == NULL);
	waiting_free(waiting);
	free(waiting);
}

/* Each may have what it leaves to the others, also of places that cannot be used again yet. */
static void test_shares(void)
{
	enum { ROOM = WAITING_BYTES / WAITING_LEAST };
	struct waiting *waiting = check_allocate(sizeof(*waiting));
	struct waiting_queue first = { 0 }, second = { 0 }, third = { 0 };
	uint32_t count;

	check_about("shares");
	CHECK_EQUAL(waiting_init(waiting, WAITING_BYTES), 0);
	waiting_add(waiting, &first, 0, bytes, 0, 1);
	for (count = 1; waiting_has_room(waiting, 0, 0); count++)
		waiting_add(waiting, &second, 0, bytes, 0, 1);
	CHECK_EQUAL(count, ROOM / 2);
	for (count = 0; waiting_has_room(waiting, MCRD_RULE_SLOTS - 1, 0); count++)
		waiting_add(waiting, &third, MCRD_RULE_SLOTS - 1, bytes, 0, 1);
	CHECK_EQUAL(count, ROOM / 4);
	/* What is not first of all has to wait for its place. */
	while (second.first)
		waiting_end(waiting, &second);
	CHECK_EQUAL(waiting_has_room(waiting, 0, 0), 0);
	waiting_end(waiting, &first);
	CHECK_EQUAL(waiting_has_room(waiting, 0, 0), 1);
	CHECK_EQUAL(waiting->taken[0], 0);
	/* No datagram is too large. */
	CHECK_EQUAL(waiting_has_room(waiting, 0, LARGEST), 1);
	waiting_free(waiting);
	waiting_free(waiting); /* there is nothing any more */
	free(waiting);
}

int main(void)
{
	test_against_a_model();
	test_shares();
	return check_result();
}
