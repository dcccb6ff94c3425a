/* The engine for where an io_uring is not allowed: writes are done when they return, and ppoll(2) waits.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "pace.h"

#define NOT_WAITING UINT64_MAX
#define LOOK_NS 1000000ULL /* so often the kernel is asked while there is always something to relay */

int polling_open(struct engine *engine, int channel, int readiness)
{
	int ears = epoll_create1(EPOLL_CLOEXEC);

	if (ears < 0)
		return -errno;
	engine->polling = (struct polling){ .channel = channel, .readiness = readiness, .ears = ears };
	engine->calls = &polling_calls;
	return 0;
}

static void polling_close(struct engine *engine)
{
	close(engine->polling.ears);
}

static int polling_put(struct engine *engine, struct engine_file file)
{
	(void)engine;
	(void)file;
	return 0;
}

/* Every egress socket has O_NONBLOCK: no room is -EAGAIN. */
static int polling_write(struct engine *engine, struct engine_file to, const struct iovec *vectors, unsigned int count,
			 uint64_t what, unsigned int flags, int *result)
{
	/* Of nothing, writev() makes no datagram; an empty one is alone in its run. */
	ssize_t written = vectors->iov_len == 0 ? write(to.descriptor, vectors->iov_base, 0) :
						  writev(to.descriptor, vectors, (int)count);

	(void)engine;
	(void)what;
	(void)flags; /* the caller has seen what became of the one before */
	*result = written < 0 ? -errno : (int)written;
	return 0;
}

static int polling_receive(struct engine *engine, struct engine_file from, struct msghdr *header, int flags, uint64_t what,
			   int *result)
{
	ssize_t length = recvmsg(from.descriptor, header, flags);

	(void)engine;
	(void)what;
	*result = length < 0 ? -errno : (int)length;
	return 0;
}

static void polling_cancel(struct engine *engine, uint64_t what, uint64_t own)
{
	(void)engine;
	(void)what;
	(void)own;
}

static int polling_listen(struct engine *engine, struct engine_file at, uint64_t what)
{
	struct polling *polling = &engine->polling;
	struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = what };

	if (epoll_ctl(polling->ears, EPOLL_CTL_MOD, at.descriptor, &event) == 0)
		return 0;
	if (errno != ENOENT || epoll_ctl(polling->ears, EPOLL_CTL_ADD, at.descriptor, &event) < 0)
		return -errno;
	polling->listening++;
	return 0;
}

static int polling_end_listening(struct engine *engine, struct engine_file at, uint64_t what, int under_way, uint64_t own)
{
	struct polling *polling = &engine->polling;

	(void)what;
	(void)under_way;
	(void)own;
	if (epoll_ctl(polling->ears, EPOLL_CTL_DEL, at.descriptor, NULL) < 0)
		return errno == ENOENT || errno == EBADF ? 0 : -errno;
	polling->listening--;
	return 0;
}

static int polling_await_message(struct engine *engine, struct msghdr *header, uint64_t what, uint64_t pause)
{
	struct polling *polling = &engine->polling;

	polling->message = header;
	polling->what_message = what;
	polling->message_from = pause ? pace_now() + pause : 0;
	return 0;
}

static void polling_await_frames(struct engine *engine, uint64_t what)
{
	engine->polling.what_frames = what;
}

static void polling_pause(struct engine *engine, uint64_t what, uint64_t ns)
{
	engine->polling.what_pause = what;
	engine->polling.pause_ends = pace_now() + ns;
}

static void add_done(struct polling *polling, uint64_t what, int result)
{
	polling->done[polling->done_count++] = (struct completion){ what, result };
}

static void take_message(struct polling *polling)
{
	ssize_t length = recvmsg(polling->channel, polling->message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	polling->message = NULL;
	add_done(polling, polling->what_message, length < 0 ? -errno : (int)length);
}

static void take_ears(struct polling *polling)
{
	struct epoll_event events[ENGINE_EARS];
	int count = epoll_pwait(polling->ears, events, ENGINE_EARS, 0, NULL), i;

	for (i = 0; i < count; i++)
		add_done(polling, events[i].data.u64, (int)events[i].events);
}

/* What to wait for at most, where something is due at that time. */
static uint64_t until(uint64_t least, uint64_t now, uint64_t due)
{
	uint64_t left = due > now ? due - now : 0;

	return left < least ? left : least;
}

/* Asks the kernel, and waits for so many ns; NOT_WAITING is for ever. Nothing may be left of what was done. */
static int ask(struct polling *polling, uint64_t ns, uint64_t now)
{
	struct pollfd files[3];
	struct timespec timeout;
	int message = 0, result;
	nfds_t count = 0, frames, ears;

	polling->done_first = polling->done_count = 0;
	if (polling->message && polling->message_from > now)
		ns = until(ns, now, polling->message_from);
	else if (polling->message)
		message = 1;
	if (polling->what_pause)
		ns = until(ns, now, polling->pause_ends);
	if (message)
		files[count++] = (struct pollfd){ .fd = polling->channel, .events = POLLIN };
	frames = count;
	if (polling->what_frames)
		files[count++] = (struct pollfd){ .fd = polling->readiness, .events = POLLIN };
	ears = count;
	if (polling->listening)
		files[count++] = (struct pollfd){ .fd = polling->ears, .events = POLLIN };
	timeout = (struct timespec){ (time_t)(ns / 1000000000), (long)(ns % 1000000000) };
	result = ppoll(files, count, ns == NOT_WAITING ? NULL : &timeout, NULL);
	polling->looked = pace_now();
	if (polling->what_pause && polling->looked >= polling->pause_ends) {
		add_done(polling, polling->what_pause, -ETIME);
		polling->what_pause = 0;
	}
	if (result <= 0)
		return result < 0 && errno != EINTR ? -errno : 0;
	if (message && files[0].revents)
		take_message(polling);
	if (ears > frames && files[frames].revents) {
		add_done(polling, polling->what_frames, files[frames].revents);
		polling->what_frames = 0;
	}
	if (count > ears && files[ears].revents)
		take_ears(polling);
	return 0;
}

static int polling_submit(struct engine *engine)
{
	(void)engine;
	return 0;
}

static int polling_finish(struct engine *engine, unsigned int count)
{
	(void)engine;
	(void)count;
	return 0;
}

static int polling_wait(struct engine *engine, uint64_t ns)
{
	struct polling *polling = &engine->polling;

	if (polling->done_count > polling->done_first)
		return 0;
	return ask(polling, ns ? ns : NOT_WAITING, pace_now());
}

static int polling_next(struct engine *engine, struct completion *done)
{
	struct polling *polling = &engine->polling;

	if (polling->done_first == polling->done_count)
		return 0;
	*done = polling->done[polling->done_first++];
	return 1;
}

static int polling_look(struct engine *engine, struct completion *done)
{
	struct polling *polling = &engine->polling;
	uint64_t now;
	int result;

	if (polling_next(engine, done))
		return 1;
	now = pace_now();
	if (now - polling->looked < LOOK_NS)
		return 0;
	result = ask(polling, 0, now);
	return result < 0 ? result : polling_next(engine, done);
}

const struct engine_calls polling_calls = {
	.close = polling_close,
	.put = polling_put,
	.write = polling_write,
	.receive = polling_receive,
	.cancel = polling_cancel,
	.listen = polling_listen,
	.end_listening = polling_end_listening,
	.await_message = polling_await_message,
	.await_frames = polling_await_frames,
	.pause = polling_pause,
	.submit = polling_submit,
	.finish = polling_finish,
	.wait = polling_wait,
	.next = polling_next,
	.look = polling_look,
};
