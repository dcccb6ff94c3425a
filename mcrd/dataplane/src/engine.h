/* What a worker waits and sends with: an io_uring (uring.c), or where that is not allowed ppoll(2) and writev(2)
 * (polling.c). All that differs between the two is here.
 *
 * An operation is called by a number, `what`. It is done when it returns, or its completion comes later.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_ENGINE_H
#define MCRD_ENGINE_H

#include <liburing.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
	ENGINE_QUEUE = 1024, /* at least EGRESS_RUNS and the worker's own three operations */
	ENGINE_EARS = 32,    /* that are told at a time, by the engine that polls */
};

/* The file table's first places; then the sockets. */
enum { PLACE_CHANNEL, PLACE_READINESS, PLACE_KEPT, ENGINE_PLACES };

/* An operation that is done: as the system call would have returned, or a negative errno. */
struct completion {
	uint64_t what;
	int result;
};

/* An egress socket or ear: where it is in the file table, and its descriptor. */
struct engine_file {
	uint32_t place;
	int descriptor;
};

struct polling {
	int channel;
	int readiness;
	int ears;               /* an epoll of all that is listened at */
	uint32_t listening;     /* how much that is */
	struct msghdr *message; /* NULL: none is awaited */
	uint64_t what_message;
	uint64_t message_from; /* not before; CLOCK_MONOTONIC in ns, as all times here */
	uint64_t what_frames;  /* 0: none are awaited */
	uint64_t what_pause;   /* 0: there is none */
	uint64_t pause_ends;
	uint64_t looked; /* when */
	uint32_t done_first, done_count;
	struct completion done[ENGINE_EARS + 3];
};

struct engine;

/* Functions that can fail return a negative errno, of the engine itself. */
struct engine_calls {
	void (*close)(struct engine *engine);
	/* The file table has this descriptor at the place; -1: none. */
	int (*put)(struct engine *engine, struct engine_file file);

	/* 1: it is under way. 0: it is done, and *result is as of a completion. `flags`: enum engine_write. */
	int (*write)(struct engine *engine, struct engine_file to, const struct iovec *vectors, unsigned int count,
		     uint64_t what, unsigned int flags, int *result);
	int (*receive)(struct engine *engine, struct engine_file from, struct msghdr *header, int flags, uint64_t what,
		       int *result);
	/* Writes that are under way end: those that wait for room. The call itself has a completion, `own`. */
	void (*cancel)(struct engine *engine, uint64_t what, uint64_t own);

	/* Once, when something is there to be received. */
	int (*listen)(struct engine *engine, struct engine_file at, uint64_t what);
	/* `under_way`: nothing has come yet; then the call may have a completion, `own`. */
	int (*end_listening)(struct engine *engine, struct engine_file at, uint64_t what, int under_way, uint64_t own);

	/* The next message of the channel, from so many ns on. */
	int (*await_message)(struct engine *engine, struct msghdr *header, uint64_t what, uint64_t pause);
	/* Frames; or the end of a pause of so many ns. One or the other at a time. */
	void (*await_frames)(struct engine *engine, uint64_t what);
	void (*pause)(struct engine *engine, uint64_t what, uint64_t ns);

	/* Begins all that it was told of. */
	int (*submit)(struct engine *engine);
	/* Also waits until so many operations are done; or one, for so many ns at most (0: without an end). */
	int (*finish)(struct engine *engine, unsigned int count);
	int (*wait)(struct engine *engine, uint64_t ns);
	/* 1: a completion that was there; 0: none. look() asks the kernel, too. */
	int (*next)(struct engine *engine, struct completion *done);
	int (*look)(struct engine *engine, struct completion *done);
};

enum engine_write {
	ENGINE_LINKED = 1,  /* not if the write before it fails: -ECANCELED */
	ENGINE_NO_WAIT = 2, /* -EAGAIN where there is no room */
};

struct engine {
	const struct engine_calls *calls; /* NULL: it is not open */
	struct io_uring uring;
	struct io_uring_sqe *written; /* the last write */
	struct polling polling;
};

/* `places` as many sockets at most. uring_open() returns 1 without what makes one thread its only user. It is of no use
 * before it is enabled. */
int uring_open(struct engine *engine, uint32_t places, int channel, int readiness);
int uring_restrict(struct engine *engine);
int uring_enable(struct engine *engine);
/* What this is of ends with the ring, which the kernel takes down by itself after the process has ended. */
int uring_keep(struct engine *engine, int descriptor);
int polling_open(struct engine *engine, int channel, int readiness);

extern const struct engine_calls uring_calls, polling_calls;

#endif
