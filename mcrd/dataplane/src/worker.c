/* A worker's parts, and what a message brings.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backlog.h"

struct worker *worker_new(const struct worker_settings *settings)
{
	struct worker *worker = aligned_alloc(_Alignof(struct worker), sizeof(*worker));
	int result;

	if (!worker)
		return NULL;
	memset(worker, 0, sizeof(*worker));
	worker->settings = *settings;
	worker->began = pace_real_now();
	worker->until = UINT64_MAX;
	result = rules_init(&worker->rules);
	if (result == 0) {
		result = flows_init(&worker->flows);
		if (result < 0)
			rules_free(&worker->rules);
	}
	if (result < 0) {
		free(worker);
		errno = -result;
		return NULL;
	}
	return worker;
}

void worker_free(struct worker *worker)
{
	int i;

	if (worker->engine.calls)
		worker->engine.calls->close(&worker->engine);
	answers_free(&worker->answers);
	egress_free(&worker->egress);
	for (i = 0; i < MCRD_RULE_SLOTS; i++)
		worker_leave_stream(worker, worker->rules.by_slot[i]);
	backlog_free(worker);
	rules_free(&worker->rules); /* it counts what waits */
	for (i = 0; i < MCRD_INTERFACES * MCRD_RINGS; i++)
		ring_unmap(&worker->interfaces[i / MCRD_RINGS].rings[i % MCRD_RINGS]);
	if (worker->segment)
		munmap(worker->segment, sizeof(*worker->segment));
	if (worker->shared)
		munmap(worker->shared, sizeof(*worker->shared));
	free(worker);
}

/* While mcrd is upgraded, a supervisor may start a worker of another version. */
static int map(int descriptor, size_t size, void **memory)
{
	struct stat status;

	if (fstat(descriptor, &status) < 0)
		return -errno;
	if ((size_t)status.st_size != size)
		return -EPROTO;
	*memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
	if (*memory != MAP_FAILED)
		return 0;
	*memory = NULL;
	return -errno;
}

int worker_map_segment(struct worker *worker, int descriptor)
{
	void *memory;
	int result = map(descriptor, sizeof(*worker->segment), &memory);

	if (result < 0)
		return result;
	worker->segment = memory;
	if (worker->segment->version != MCRD_SEGMENT_VERSION)
		return -EPROTO;
	/* Of a worker that was killed: this one gets these frames again. */
	worker->segment->first_in_hand = 0;
	worker->segment->at_work = (struct at_work){ 0 };
	return 0;
}

int worker_map_guard(struct worker *worker, int descriptor)
{
	void *memory;
	int result = map(descriptor, sizeof(*worker->shared), &memory);

	if (result < 0)
		return result;
	worker->shared = memory;
	guard_init(&worker->guard, worker->shared);
	return 0;
}

/* A ring that is not mapped is an empty one. */
int worker_map_ring(struct worker *worker, uint32_t interface, uint32_t which, int packet_socket)
{
	const struct interface_settings *settings = &worker->settings.interfaces[interface];
	struct interface *here = &worker->interfaces[interface];
	struct ring *ring = &here->rings[which];
	int result;

	if (settings->counters >= MCRD_INTERFACES)
		return -EINVAL;
	here->settings = settings;
	here->counters = &worker->segment->interfaces[settings->counters];
	here->positions = &worker->segment->positions[(size_t)settings->counters * MCRD_RINGS];
	result = ring_map(ring, packet_socket, &settings->rings[which], settings->link);
	if (result < 0)
		return result;
	ring_continue(ring, here->positions[which]);
	/* What was in hand is dealt with once more; each is a datagram, or more. */
	here->counters->datagrams[which] -= here->counters->taken[which] - here->counters->frames[which];
	here->counters->taken[which] = here->counters->frames[which];
	return 0;
}

int worker_open_engine(struct worker *worker, int polls)
{
	const struct worker_settings *settings = &worker->settings;
	struct engine *engine = &worker->engine;

	/* Else the sleeps of a busy worker end 50 us late. */
	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);

	return polls ? polling_open(engine, settings->channel, settings->readiness) :
		       uring_open(engine, settings->sockets, settings->channel, settings->readiness);
}

int worker_make_places(struct worker *worker)
{
	int result = egress_init(&worker->egress, &worker->engine, worker->settings.sockets, worker->segment);

	return result < 0 ? result : answers_init(&worker->answers, &worker->egress);
}

int worker_restrict_uring(struct worker *worker)
{
	return uring_restrict(&worker->engine);
}

int worker_enable_uring(struct worker *worker)
{
	return uring_enable(&worker->engine);
}

int worker_keep(struct worker *worker, int descriptor)
{
	return uring_keep(&worker->engine, descriptor);
}

void worker_begin(struct worker *worker, uint64_t since, uint64_t until, int passes_over)
{
	worker->since = since;
	worker->until = until ? until : UINT64_MAX;
	worker->passes_over = passes_over;
	worker->begun = 1;
}

/* Frames wait in the rings until it begins again. */
void worker_pause(struct worker *worker)
{
	worker->begun = 0;
}

uint32_t worker_places(const struct worker *worker)
{
	return worker->settings.sockets;
}

/* -1 empties the place. When it returns 0 the descriptor is the worker's, which sets UDP_SEGMENT by it. */
int worker_set_socket(struct worker *worker, uint32_t place, int descriptor)
{
	int result;

	if (place >= worker->settings.sockets)
		return -ENFILE;
	result = answers_end(&worker->answers, place);
	if (result < 0)
		return result;
	result = worker->engine.calls->put(&worker->engine, (struct engine_file){ place, descriptor });
	if (result < 0)
		return result;
	egress_put(&worker->egress, place, descriptor);
	return 0;
}

const uint8_t *worker_message(const struct worker *worker)
{
	return worker->message;
}

/* The descriptors that came with the message; the caller owns them now. Returns how many. */
int worker_take_descriptors(struct worker *worker, int *descriptors, int room)
{
	struct cmsghdr *header;
	int total = 0;

	for (header = CMSG_FIRSTHDR(&worker->message_header); header;
	     header = CMSG_NXTHDR(&worker->message_header, header)) {
		int here = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		if (here > room - total)
			here = room - total;
		memcpy(descriptors + total, CMSG_DATA(header), (size_t)here * sizeof(int));
		total += here;
	}
	return total;
}
