/* The engine that is an io_uring.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

int uring_open(struct engine *engine, uint32_t places, int channel, int readiness)
{
	const unsigned int always = IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED;
	struct io_uring_params params = {
		.flags = always | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		.cq_entries = 2 * ENGINE_QUEUE,
	};
	int first[] = { channel, readiness }, result, older = 0;

	result = io_uring_queue_init_params(ENGINE_QUEUE, &engine->uring, &params);
	if (result == -EINVAL) { /* before Linux 6.1 */
		older = 1;
		params = (struct io_uring_params){ .flags = always, .cq_entries = 2 * ENGINE_QUEUE };
		result = io_uring_queue_init_params(ENGINE_QUEUE, &engine->uring, &params);
	}
	if (result < 0)
		return result;
	engine->calls = &uring_calls;
	result = io_uring_register_files_sparse(&engine->uring, ENGINE_PLACES + places);
	if (result >= 0)
		result = io_uring_register_files_update(&engine->uring, PLACE_CHANNEL, first, 2);
	if (result >= 0)
		return older;
	/* Another engine may be opened in its place. */
	io_uring_queue_exit(&engine->uring);
	engine->calls = NULL;
	return result;
}

/* The shared library of liburing 2.3 (Debian 12) exports neither io_uring_register_restrictions() nor
 * io_uring_enable_rings(). */
static int uring_register(struct engine *engine, unsigned int operation, void *argument, unsigned int count)
{
	long result = syscall(SYS_io_uring_register, engine->uring.ring_fd, operation, argument, count);

	return result < 0 ? -errno : 0;
}

/* From when it is enabled on, the ring does what the loop does and nothing else, for whoever holds it. Of all that
 * could send, there is WRITEV on sockets that are connected; every file is one of the table. */
int uring_restrict(struct engine *engine)
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
	return uring_register(engine, IORING_REGISTER_RESTRICTIONS, restrictions, ALL);
}

int uring_enable(struct engine *engine)
{
	return uring_register(engine, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

int uring_keep(struct engine *engine, int descriptor)
{
	int result = io_uring_register_files_update(&engine->uring, PLACE_KEPT, &descriptor, 1);

	return result < 0 ? result : 0;
}

static void uring_close(struct engine *engine)
{
	io_uring_queue_exit(&engine->uring);
}

static int uring_put(struct engine *engine, struct engine_file file)
{
	int result = io_uring_register_files_update(&engine->uring, ENGINE_PLACES + file.place, &file.descriptor, 1);

	return result < 0 ? result : 0;
}

/* One that is called by the number. What is prepared goes to the kernel where there is no room else. */
static struct io_uring_sqe *next_entry(struct engine *engine)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&engine->uring);

	if (!entry && io_uring_submit(&engine->uring) >= 0)
		entry = io_uring_get_sqe(&engine->uring);
	return entry;
}

/* Every file is one of the table, and no operation is without one: see uring_restrict(). */
static void name_entry(struct io_uring_sqe *entry, uint64_t what, unsigned int flags)
{
	io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE | flags);
	io_uring_sqe_set_data64(entry, what);
}

static int uring_write(struct engine *engine, struct engine_file to, const struct iovec *vectors, unsigned int count,
		       uint64_t what, unsigned int flags, int *result)
{
	/* The queue has room for all runs and what else a worker has under way: never NULL. */
	struct io_uring_sqe *entry = io_uring_get_sqe(&engine->uring);

	(void)result;
	io_uring_prep_writev(entry, (int)(ENGINE_PLACES + to.place), vectors, count, 0);
	name_entry(entry, what, 0);
	/* Where a send buffer is full io_uring would wait for room, O_NONBLOCK or not, and hold up every other flow. */
	if (flags & ENGINE_NO_WAIT)
		entry->rw_flags = RWF_NOWAIT;
	if (flags & ENGINE_LINKED)
		engine->written->flags |= IOSQE_IO_LINK;
	engine->written = entry;
	return 1;
}

static int uring_receive(struct engine *engine, struct engine_file from, struct msghdr *header, int flags, uint64_t what,
			 int *result)
{
	struct io_uring_sqe *entry = next_entry(engine);

	(void)result;
	if (!entry)
		return -EBUSY;
	io_uring_prep_recvmsg(entry, (int)(ENGINE_PLACES + from.place), header, (unsigned int)flags);
	name_entry(entry, what, 0);
	return 1;
}

static void uring_cancel(struct engine *engine, uint64_t what, uint64_t own)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&engine->uring);

	io_uring_prep_cancel64(entry, what, 0);
	name_entry(entry, own, 0);
}

static int uring_listen(struct engine *engine, struct engine_file at, uint64_t what)
{
	struct io_uring_sqe *entry = next_entry(engine);

	if (!entry)
		return -EBUSY;
	io_uring_prep_poll_add(entry, (int)(ENGINE_PLACES + at.place), POLLIN);
	name_entry(entry, what, 0);
	return 0;
}

/* A poll holds its socket, and with that the port: it has to end too. */
static int uring_end_listening(struct engine *engine, struct engine_file at, uint64_t what, int under_way, uint64_t own)
{
	struct io_uring_sqe *entry = under_way ? next_entry(engine) : NULL;

	(void)at;
	if (!under_way)
		return 0;
	if (!entry)
		return -EBUSY;
	io_uring_prep_cancel64(entry, what, 0);
	name_entry(entry, own, 0);
	return 0;
}

static int prepare_pause(struct engine *engine, uint64_t ns, unsigned int flags, uint64_t what, unsigned int entry_flags)
{
	/* The kernel reads it when it is submitted, before there is another one. */
	static struct __kernel_timespec pause;
	struct io_uring_sqe *entry = next_entry(engine);

	if (!entry)
		return -EBUSY;
	pause = (struct __kernel_timespec){ .tv_nsec = (long long)ns };
	io_uring_prep_timeout(entry, &pause, 0, flags);
	name_entry(entry, what, entry_flags);
	return 0;
}

/* A message may have begun so many polls that the queue is full of them. */
static int uring_await_message(struct engine *engine, struct msghdr *header, uint64_t what, uint64_t pause)
{
	int result = pause ? prepare_pause(engine, pause, IORING_TIMEOUT_ETIME_SUCCESS, 0, IOSQE_IO_LINK) : 0;
	struct io_uring_sqe *entry = result == 0 ? next_entry(engine) : NULL;

	if (!entry)
		return -EBUSY;
	io_uring_prep_recvmsg(entry, PLACE_CHANNEL, header, MSG_CMSG_CLOEXEC);
	name_entry(entry, what, 0);
	/* At once: while there are frames, nothing else may submit it. */
	io_uring_submit(&engine->uring);
	return 0;
}

static void uring_await_frames(struct engine *engine, uint64_t what)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&engine->uring);

	io_uring_prep_poll_add(entry, PLACE_READINESS, POLLIN);
	name_entry(entry, what, 0);
}

static void uring_pause(struct engine *engine, uint64_t what, uint64_t ns)
{
	(void)prepare_pause(engine, ns, 0, what, 0); /* the queue has room for it */
}

static int uring_submit(struct engine *engine)
{
	return io_uring_sq_ready(&engine->uring) > 0 ? io_uring_submit(&engine->uring) : 0;
}

static int uring_finish(struct engine *engine, unsigned int count)
{
	int result = io_uring_submit_and_wait(&engine->uring, count);

	return result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY ? result : 0;
}

static int uring_wait(struct engine *engine, uint64_t ns)
{
	struct __kernel_timespec timeout = { (long long)(ns / 1000000000), (long long)(ns % 1000000000) };
	struct io_uring_cqe *cqe;
	int result = ns ? io_uring_submit_and_wait_timeout(&engine->uring, &cqe, 1, &timeout, NULL) :
			  io_uring_submit_and_wait(&engine->uring, 1);

	return result < 0 && result != -EINTR && result != -ETIME ? result : 0;
}

static int uring_next(struct engine *engine, struct completion *done)
{
	struct io_uring_cqe *cqe;
	unsigned int head;

	io_uring_for_each_cqe(&engine->uring, head, cqe) {
		*done = (struct completion){ cqe->user_data, cqe->res };
		io_uring_cq_advance(&engine->uring, 1);
		return 1;
	}
	return 0;
}

static int uring_look(struct engine *engine, struct completion *done)
{
	struct io_uring_cqe *cqe;

	/* Peeking also runs what the kernel has deferred to us (IORING_SETUP_TASKRUN_FLAG). */
	return io_uring_peek_cqe(&engine->uring, &cqe) == 0 && uring_next(engine, done);
}

const struct engine_calls uring_calls = {
	.close = uring_close,
	.put = uring_put,
	.write = uring_write,
	.receive = uring_receive,
	.cancel = uring_cancel,
	.listen = uring_listen,
	.end_listening = uring_end_listening,
	.await_message = uring_await_message,
	.await_frames = uring_await_frames,
	.pause = uring_pause,
	.submit = uring_submit,
	.finish = uring_finish,
	.wait = uring_wait,
	.next = uring_next,
	.look = uring_look,
};
