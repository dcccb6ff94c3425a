/* A worker's parts, and what a message brings.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backlog.h"

enum { QUEUE = 1024 /* at least EGRESS_RUNS and the worker's own three operations */ };

struct worker *worker_new(const struct worker_settings *settings)
{
	struct worker *worker = aligned_alloc(_Alignof(struct worker), sizeof(*worker));
	int result;

	if (!worker)
		return NULL;
	memset(worker, 0, sizeof(*worker));
	worker->settings = *settings;
	worker->began = pace_real_now();
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

	if (worker->uring_open)
		io_uring_queue_exit(&worker->uring);
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
	return worker->segment->version == MCRD_SEGMENT_VERSION ? 0 : -EPROTO;
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
	return 0;
}

/* It is of no use before it is enabled. */
int worker_open_uring(struct worker *worker)
{
	const unsigned int always = IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED;
	struct io_uring_params params = {
		.flags = always | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		.cq_entries = 2 * QUEUE,
	};
	int first[] = { worker->settings.channel, worker->settings.readiness }, result, older = 0;

	/* Else the sleeps of a busy worker end 50 us late. */
	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);

	result = io_uring_queue_init_params(QUEUE, &worker->uring, &params);
	if (result == -EINVAL) { /* before Linux 6.1 */
		older = 1;
		params = (struct io_uring_params){ .flags = always, .cq_entries = 2 * QUEUE };
		result = io_uring_queue_init_params(QUEUE, &worker->uring, &params);
	}
	if (result < 0)
		return result;
	worker->uring_open = 1;
	result = egress_init(&worker->egress, &worker->uring, worker->settings.sockets, &worker->segment->sent,
			     &worker->segment->failed);
	if (result == 0)
		result = answers_init(&worker->answers, &worker->uring, &worker->egress);
	if (result < 0)
		return result;
	result = io_uring_register_files_sparse(&worker->uring, EGRESS_PLACES + worker->settings.sockets);
	if (result < 0)
		return result;
	result = io_uring_register_files_update(&worker->uring, PLACE_CHANNEL, first, 2);
	return result < 0 ? result : older;
}

/* The shared library of liburing 2.3 (Debian 12) exports neither io_uring_register_restrictions() nor
 * io_uring_enable_rings(). */
static int uring_register(struct worker *worker, unsigned int operation, void *argument, unsigned int count)
{
	long result = syscall(SYS_io_uring_register, worker->uring.ring_fd, operation, argument, count);

	return result < 0 ? -errno : 0;
}

/* From when it is enabled on, the ring does what the loop does and nothing else, for whoever holds it. Of all that
 * could send, there is WRITEV on sockets that are connected; every file is one of the table. */
int worker_restrict_uring(struct worker *worker)
{
	static const uint8_t operations[] = { IORING_OP_WRITEV, IORING_OP_POLL_ADD, IORING_OP_RECVMSG, IORING_OP_TIMEOUT,
					      IORING_OP_ASYNC_CANCEL };
	enum { OPERATIONS = sizeof(operations), ALL = OPERATIONS + 3 };
	struct io_uring_restriction restrictions[ALL] = {
		{ .opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_REGISTER_FILES_UPDATE },
		{ .opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE },
		{ .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE | IOSQE_IO_LINK },
	};
	unsigned int i;

	for (i = 0; i < OPERATIONS; i++)
		restrictions[ALL - OPERATIONS + i] = (struct io_uring_restriction){
			.opcode = IORING_RESTRICTION_SQE_OP,
			.sqe_op = operations[i],
		};
	return uring_register(worker, IORING_REGISTER_RESTRICTIONS, restrictions, ALL);
}

int worker_enable_uring(struct worker *worker)
{
	return uring_register(worker, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

void worker_begin(struct worker *worker)
{
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
	result = io_uring_register_files_update(&worker->uring, EGRESS_PLACES + place, &descriptor, 1);
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
