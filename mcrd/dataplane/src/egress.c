/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "egress.h"
#include "gather.h"
#include "meter.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h, since Linux 4.18 */
#endif

enum { ATTEMPTS = 3 };

#define CAREFUL_NS 1000000000ULL  /* after a queue was full */
#define REMEMBER_NS 5000000000ULL /* after a segment was larger than the MTU, which may change */

int egress_init(struct egress *egress, struct engine *engine, uint32_t places, struct segment *segment)
{
	uint32_t i;

	egress->engine = engine;
	egress->no_wait = engine->calls == &polling_calls; /* its writes never wait */
	egress->sent = &segment->sent;
	egress->failed = &segment->failed;
	egress->in_hand = segment->in_hand;
	egress->submitted = &segment->submitted;
	egress->outputs = segment->outputs;
	memset(egress->in_hand, 0, sizeof(segment->in_hand));
	egress->sockets = calloc(places, sizeof(*egress->sockets));
	egress->active = calloc(EGRESS_RUNS, sizeof(*egress->active));
	if (!egress->sockets || !egress->active)
		return -ENOMEM;
	egress->places = places;
	for (i = 0; i < places; i++) {
		egress->sockets[i].descriptor = -1;
		egress->sockets[i].first = GATHER_NONE;
	}
	return 0;
}

void egress_free(struct egress *egress)
{
	uint32_t i;

	for (i = 0; i < egress->places; i++)
		if (egress->sockets[i].descriptor >= 0)
			close(egress->sockets[i].descriptor);
	free(egress->sockets);
	free(egress->active);
}

void egress_put(struct egress *egress, uint32_t place, int descriptor)
{
	struct egress_socket *socket = &egress->sockets[place];
	int none = 0;

	if (socket->descriptor >= 0)
		close(socket->descriptor);
	socket->descriptor = descriptor;
	/* A worker before this one may have set it; of ESP there is none to set. */
	if (descriptor >= 0)
		setsockopt(descriptor, SOL_UDP, UDP_SEGMENT, &none, sizeof(none));
	socket->segment = 0;
	socket->below = descriptor < 0 ? 0 : GATHER_ANY;
	socket->restore = 0;
	socket->window = 0;
}

/* A connected socket reports an ICMP error that an earlier datagram drew at the next write, which then sends
 * nothing (ip(7), IP_RECVERR; udp(7)). Another try tells such a report from an error of the write itself. */
static int may_be_a_report(int error)
{
	switch (error) {
	case ECONNREFUSED:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case EHOSTDOWN:
	case ENONET:
	case ENOPROTOOPT:
	case EOPNOTSUPP:
	case EPROTO:
	case EACCES:
	case EMSGSIZE:
		return 1;
	}
	return 0;
}

/* Nothing of the socket may be under way. What the kernel will not set it is not asked for again. */
static void set_segment(struct egress_socket *socket, uint32_t segment)
{
	int value = (int)segment;

	if (socket->segment == segment)
		return;
	if (setsockopt(socket->descriptor, SOL_UDP, UDP_SEGMENT, &value, sizeof(value)) == 0)
		socket->segment = segment;
	else
		gather_below(socket, 0, 0);
}

/* A write no longer than the segment size is one datagram, a longer one is cut (tried: Linux 6.18). A size that
 * does not fit the MTU is refused even for shorter writes by older kernels; 0 fits everything. */
static uint32_t segment_for(const struct egress_socket *socket, const struct run *run)
{
	if (run->apart)
		return 0;
	if (run->datagrams > 1)
		return run->length;
	return run->length <= socket->segment ? socket->segment : 0;
}

/* The datagram of a run that is next to go by itself. */
static struct iovec piece_of(const struct run *run, const struct iovec *vectors)
{
	size_t at = (size_t)run->done * run->length, left = run->bytes - at;

	while (at >= vectors->iov_len && left > 0) {
		at -= vectors->iov_len;
		vectors++;
	}
	return (struct iovec){ (uint8_t *)vectors->iov_base + at, left < run->length ? left : run->length };
}

/* What has left, or will, if the worker crashes before it is counted. */
static void set_under_way(const struct egress *egress, uint32_t index, uint32_t datagrams)
{
	__atomic_store_n(&egress->in_hand[index].under_way, datagrams, __ATOMIC_RELAXED);
}

/* 1 when it is under way: else it is answered already. */
static int write_run(struct egress *egress, uint32_t index, unsigned int flags)
{
	struct run *run = &egress->runs[index];
	struct egress_socket *socket = &egress->sockets[run->output->socket];
	const struct iovec *vectors = egress->vectors[index];
	unsigned int count = run->vectors;
	uint32_t datagrams = run->apart ? 1 : run->datagrams;
	int under_way;

	if (run->apart) {
		socket->piece = piece_of(run, vectors);
		vectors = &socket->piece;
		count = 1;
	}
	under_way = egress->engine->calls->write(egress->engine, egress_file(egress, run->output->socket), vectors, count,
						 EGRESS_FIRST + index, flags, &run->result);
	run->state = under_way ? RUN_UNDER_WAY : RUN_ANSWERED;
	set_under_way(egress, index, under_way || run->result >= 0 ? datagrams : 0);
	return under_way;
}

/* Writes what can go to a socket with one segment size. Returns how many runs are under way. */
static uint32_t write_socket(struct egress *egress, struct egress_socket *socket)
{
	const struct run *before = NULL;
	uint32_t index, under_way = 0;

	if (socket->descriptor >= 0)
		set_segment(socket, segment_for(socket, &egress->runs[socket->first]));
	for (index = socket->first; index != GATHER_NONE; index = egress->runs[index].next) {
		struct run *run = &egress->runs[index];
		unsigned int flags = egress->waits ? 0 : ENGINE_NO_WAIT;

		if (!before && run->datagrams > 1 && socket->segment != run->length)
			run->apart = 1; /* the size could not be set */
		if (before && segment_for(socket, run) != socket->segment)
			break;
		/* What follows one that fails must not overtake it: it is cancelled, and tried again after it. */
		if (before && !socket->unlinked && !egress->waits)
			flags |= ENGINE_LINKED;
		under_way += (uint32_t)write_run(egress, index, flags);
		before = run;
		if (run->apart || (run->state == RUN_ANSWERED && run->result < 0 && !socket->unlinked))
			break;
	}
	return under_way;
}

/* Without RWF_NOWAIT: what has not been sent by now waits for room, and is given up. */
static void cancel_waiting(struct egress *egress)
{
	uint32_t i;

	for (i = 0; i < egress->count; i++)
		if (egress->runs[i].state == RUN_UNDER_WAY)
			egress->engine->calls->cancel(egress->engine, EGRESS_FIRST + i, EGRESS_CANCEL);
}

/* Waits for all that is under way. */
static int transmit(struct egress *egress, uint32_t pending, egress_other *other, void *context)
{
	struct engine *engine = egress->engine;

	while (pending > 0) {
		struct completion done;
		int result, seen = 0;

		__atomic_store_n(egress->submitted, 1, __ATOMIC_RELAXED);
		result = engine->calls->finish(engine, egress->waits ? 0 : pending);
		if (result < 0) {
			__atomic_store_n(egress->submitted, 0, __ATOMIC_RELAXED);
			return result;
		}
		while (engine->calls->next(engine, &done)) {
			seen = 1;
			if (done.what < EGRESS_FIRST || done.what >= EGRESS_FIRST + EGRESS_RUNS) {
				other(context, &done);
			} else {
				struct run *run = &egress->runs[done.what - EGRESS_FIRST];

				run->result = done.result;
				run->state = RUN_ANSWERED;
				if (done.result < 0)
					set_under_way(egress, (uint32_t)(done.what - EGRESS_FIRST), 0);
				pending--;
			}
		}
		if (egress->waits && pending > 0 && !seen) {
			cancel_waiting(egress);
			result = engine->calls->finish(engine, 1);
			if (result < 0)
				return result;
		}
	}
	return 0;
}

/* Counts what was sent or given up: the run, or one datagram of it. 1 when there is more to send of it. */
static int account(const struct egress *egress, struct egress_socket *socket, struct run *run, int error)
{
	struct output_counters *counters = run->output->counters;
	struct in_hand *in_hand = &egress->in_hand[run - egress->runs];
	uint64_t datagrams = run->apart ? 1 : run->datagrams;

	if (error) {
		count_errors(counters, error, datagrams);
		count(egress->failed, datagrams);
	} else {
		meter_note(&counters->meter, &counters->traffic, &socket->window, egress->time);
		count(egress->sent, datagrams);
		count(&counters->traffic.packets, datagrams);
		count(&counters->traffic.bytes, run->apart ? socket->piece.iov_len : run->bytes);
		if (run->reports)
			count(&counters->refused, run->reports);
	}
	__atomic_store_n(&in_hand->datagrams, in_hand->datagrams - (uint32_t)datagrams, __ATOMIC_RELAXED);
	run->attempts = 0;
	run->reports = 0;
	return run->apart && ++run->done < run->datagrams;
}

/* What became of a run that was written; 1 when it is to be written again. `waited` is what .waits was then. */
static int finish(struct egress *egress, struct egress_socket *socket, struct run *run, int waited)
{
	int error = -run->result;

	set_under_way(egress, (uint32_t)(run - egress->runs), 0);
	if (error <= 0) {
		egress->no_wait |= !waited;
		return account(egress, socket, run, 0);
	}
	if (error == ECANCELED && !waited)
		return 1; /* the one before it failed */
	if (error == EOPNOTSUPP && !waited && !egress->no_wait) {
		egress->waits = 1;
		return 1;
	}
	/* EIO: no checksum offload there, or IPsec. EMSGSIZE, once EINVAL: a segment is larger than the MTU. */
	if (socket->segment && !run->apart && (error == EIO || error == EMSGSIZE || error == EINVAL)) {
		if (error == EIO)
			gather_below(socket, 0, 0);
		else
			gather_below(socket, run->length, REMEMBER_NS);
		run->apart = 1;
		run->attempts = 0;
		return 1;
	}
	if (run->attempts < ATTEMPTS && may_be_a_report(error)) {
		run->attempts++;
		run->reports++;
		return 1;
	}
	if (error == ECANCELED)
		error = EAGAIN;
	/* A queueing discipline may take a run apart and drop some of it without a word; of one datagram it says so. */
	if (error == ENOBUFS)
		gather_below(socket, 0, CAREFUL_NS);
	socket->unlinked = 1;
	return account(egress, socket, run, error);
}

/* Drops the runs that are done; 1 when some are left. */
static int settle(struct egress *egress, struct egress_socket *socket, int waited)
{
	uint32_t index, *link = &socket->first;

	/* They were written from the front on. */
	while ((index = *link) != GATHER_NONE && egress->runs[index].state == RUN_ANSWERED) {
		struct run *run = &egress->runs[index];

		run->state = RUN_GATHERED;
		if (finish(egress, socket, run, waited))
			link = &run->next;
		else
			*link = run->next;
	}
	return socket->first != GATHER_NONE;
}

int egress_flush(struct egress *egress, egress_other *other, void *context)
{
	uint32_t i, kept;

	for (i = 0; i < egress->active_count; i++)
		egress->sockets[egress->active[i]].unlinked = 0;
	while (egress->active_count > 0) {
		uint32_t under_way = 0;
		int result, waited = egress->waits;

		/* ppoll's engine writes at once. */
		__atomic_store_n(egress->submitted, egress->engine->calls == &polling_calls, __ATOMIC_RELAXED);
		for (i = 0; i < egress->active_count; i++)
			under_way += write_socket(egress, &egress->sockets[egress->active[i]]);
		result = transmit(egress, under_way, other, context);
		if (result < 0)
			return result;
		for (i = kept = 0; i < egress->active_count; i++)
			if (settle(egress, &egress->sockets[egress->active[i]], waited))
				egress->active[kept++] = egress->active[i];
		egress->active_count = kept;
	}
	egress->count = 0;
	egress->flushes++;
	return 0;
}
