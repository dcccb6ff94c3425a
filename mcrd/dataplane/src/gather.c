/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "gather.h"

#include <time.h>

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

void gather_below(struct egress_socket *socket, uint32_t length, uint64_t time)
{
	if (socket->below < length || (socket->below < GATHER_ANY && socket->restore == 0))
		return;
	socket->below = length;
	socket->restore = time ? now_ns() + time : 0;
}

/* Does the run take another datagram? */
static int takes(const struct egress_socket *socket, const struct run *run, const struct output *output,
		 uint32_t length)
{
	/* Nothing would be left of an empty datagram; and what is longer than the rest would be cut. */
	return !run->closed && run->output == output && length > 0 && length <= run->length &&
	       run->length < socket->below && run->datagrams < EGRESS_SEGMENTS && run->bytes + length <= EGRESS_BYTES;
}

static struct run *new_run(struct egress *egress, struct egress_socket *socket, const struct output *output,
			   uint32_t length)
{
	uint32_t index = egress->count++;
	struct run *run = &egress->runs[index];

	egress->runs_so_far++;
	if (socket->restore && now_ns() >= socket->restore) {
		socket->below = GATHER_ANY;
		socket->restore = 0;
	}
	if (socket->first == GATHER_NONE) {
		socket->first = index;
		egress->active[egress->active_count++] = output->socket;
	} else {
		egress->runs[socket->last].next = index;
	}
	socket->last = index;
	egress->in_hand[index].output = (uint32_t)(output->counters - egress->outputs);
	egress->in_hand[index].length = length;
	*run = (struct run){ .output = output, .next = GATHER_NONE, .length = length };
	return run;
}

int egress_add(struct egress *egress, const struct output *output, const uint8_t *data, uint32_t length,
	       egress_other *other, void *context)
{
	struct egress_socket *socket = &egress->sockets[output->socket];
	struct run *run = socket->first == GATHER_NONE ? NULL : &egress->runs[socket->last];
	struct iovec *vector;

	if (!run || !takes(socket, run, output, length)) {
		if (egress->count == EGRESS_RUNS) {
			int result = egress_flush(egress, other, context);

			if (result < 0)
				return result;
		}
		run = new_run(egress, socket, output, length);
	}
	run->closed = length < run->length;
	run->datagrams++;
	__atomic_store_n(&egress->in_hand[run - egress->runs].datagrams, run->datagrams, __ATOMIC_RELAXED);
	run->bytes += length;
	vector = egress->vectors[run - egress->runs] + run->vectors;
	/* The datagrams of a super-frame stand side by side. */
	if (run->vectors > 0 && data == (uint8_t *)vector[-1].iov_base + vector[-1].iov_len) {
		vector[-1].iov_len += length;
	} else {
		*vector = (struct iovec){ (void *)(uintptr_t)data, length };
		run->vectors++;
	}
	return 0;
}
