/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "waiting.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNED = 64 }; /* all sizes are multiples: so what is left at the end has room for a struct waiting_packet */

_Static_assert(sizeof(struct waiting_packet) <= ALIGNED, "a place at the end");
_Static_assert(WAITING_BYTES % ALIGNED == 0 && MCRD_BACKLOG_BYTES % ALIGNED == 0 && WAITING_LEAST % ALIGNED == 0,
	       "all sizes are multiples");

static struct waiting_packet *at(const struct waiting *waiting, uint32_t offset)
{
	return (struct waiting_packet *)(void *)(waiting->memory + offset);
}

static uint32_t size_of(uint32_t length)
{
	uint32_t size = ((uint32_t)sizeof(struct waiting_packet) + length + ALIGNED - 1) / ALIGNED * ALIGNED;

	return size < WAITING_LEAST ? WAITING_LEAST : size;
}

/* What is left at the end, where the place has no room there: it is taken with it. */
static uint32_t left_over(const struct waiting *waiting, uint32_t size)
{
	uint32_t to_end = waiting->bytes - waiting->next;

	return size <= to_end ? 0 : to_end;
}

int waiting_init(struct waiting *waiting, uint32_t bytes)
{
	memset(waiting, 0, sizeof(*waiting));
	/* The kernel gives memory to what is written for the first time. */
	waiting->bytes = bytes;
	waiting->memory = aligned_alloc(ALIGNED, bytes);
	return waiting->memory ? 0 : -ENOMEM;
}

void waiting_free(struct waiting *waiting)
{
	free(waiting->memory);
	waiting->memory = NULL;
}

int waiting_fits(const struct waiting *waiting, uint32_t length)
{
	uint32_t size = size_of(length);

	return size + left_over(waiting, size) <= waiting->bytes - waiting->used;
}

int waiting_has_room(const struct waiting *waiting, uint32_t rule, uint32_t length)
{
	uint32_t size = size_of(length), needed = size + left_over(waiting, size), left;

	if (!waiting_fits(waiting, length))
		return 0;
	left = waiting->bytes - waiting->used - needed;
	return waiting->taken[rule] + needed <= left;
}

static struct waiting_packet *take(struct waiting *waiting, uint32_t rule, uint32_t size)
{
	struct waiting_packet *packet = at(waiting, waiting->next);

	*packet = (struct waiting_packet){ .size = size, .rule = rule };
	waiting->used += size;
	waiting->taken[rule] += size;
	waiting->next += size;
	if (waiting->next == waiting->bytes)
		waiting->next = 0;
	return packet;
}

struct waiting_packet *waiting_add(struct waiting *waiting, struct waiting_queue *queue, uint32_t rule,
				   const uint8_t *payload, uint32_t length, uint64_t now)
{
	uint32_t size = size_of(length), rest = left_over(waiting, size);
	struct waiting_packet *packet;

	if (rest)
		take(waiting, rule, rest);
	packet = take(waiting, rule, size);
	packet->queue = queue;
	packet->since = now;
	packet->length = length;
	if (payload)
		memcpy(packet->payload, payload, length);
	if (queue->last)
		queue->last->next = packet;
	else
		queue->first = packet;
	queue->last = packet;
	return packet;
}

/* Frees the places of the oldest that wait no more. */
static void free_places(struct waiting *waiting)
{
	while (waiting->used > 0) {
		const struct waiting_packet *packet = at(waiting, waiting->oldest);

		if (packet->queue)
			return;
		waiting->used -= packet->size;
		waiting->taken[packet->rule] -= packet->size;
		waiting->oldest += packet->size;
		if (waiting->oldest == waiting->bytes)
			waiting->oldest = 0;
	}
	waiting->oldest = waiting->next = 0; /* the same memory again, which is in the CPU's cache */
}

void waiting_end(struct waiting *waiting, struct waiting_queue *queue)
{
	struct waiting_packet *packet = queue->first;

	queue->first = packet->next;
	if (!queue->first)
		queue->last = NULL;
	packet->queue = NULL;
	free_places(waiting);
}

struct waiting_packet *waiting_oldest(const struct waiting *waiting)
{
	return waiting->used > 0 ? at(waiting, waiting->oldest) : NULL;
}
