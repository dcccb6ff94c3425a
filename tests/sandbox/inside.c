/* What an attempt from inside a worker needs in C: its io_uring, as somebody who runs code there would use it.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "worker.h"

int inside_ring(const struct worker *worker)
{
	return worker->engine.uring.ring_fd;
}

/* The first egress socket; -1: there is none. */
int inside_egress(const struct worker *worker)
{
	return worker->egress.places ? worker->egress.sockets[0].descriptor : -1;
}

int inside_place(void)
{
	return ENGINE_PLACES;
}

/* Submits one operation and returns its result. */
int inside_submit(struct worker *worker, const void *entry)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&worker->engine.uring);
	struct __kernel_timespec timeout = { .tv_sec = 1 };
	struct io_uring_cqe *cqe;
	int result;

	if (!sqe)
		return -ENOBUFS;
	memcpy(sqe, entry, sizeof(*sqe));
	sqe->user_data = 0xa77ac4;
	result = io_uring_submit(&worker->engine.uring);
	if (result < 0)
		return result;
	for (;;) {
		result = io_uring_wait_cqe_timeout(&worker->engine.uring, &cqe, &timeout);
		if (result < 0)
			return result; /* -ETIME: it was taken, and is under way */
		result = cqe->res;
		if (cqe->user_data == 0xa77ac4) {
			io_uring_cqe_seen(&worker->engine.uring, cqe);
			return result;
		}
		io_uring_cqe_seen(&worker->engine.uring, cqe);
	}
}

int inside_register(struct worker *worker, unsigned int operation, void *argument, unsigned int count)
{
	long result = syscall(SYS_io_uring_register, worker->engine.uring.ring_fd, operation, argument, count);

	return result < 0 ? -errno : (int)result;
}
