/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "answers.h"

#include <errno.h>
#include <stdlib.h>

#include "counters.h"

enum { GENERATIONS = 1 << 28 };

int answers_init(struct answers *answers, struct io_uring *uring, struct egress *egress)
{
	answers->uring = uring;
	answers->egress = egress;
	answers->places = egress->places;
	answers->ports = calloc(answers->places, sizeof(*answers->ports));
	answers->queue = calloc(answers->places, sizeof(*answers->queue));
	answers->buffers = calloc(ANSWERS_AT_ONCE, ANSWERS_BYTES);
	/* None of it takes memory before it is used. */
	return answers->ports && answers->queue && answers->buffers ? 0 : -ENOMEM;
}

void answers_free(struct answers *answers)
{
	free(answers->ports);
	free(answers->queue);
	free(answers->buffers);
}

static uint64_t poll_of(const struct answers *answers, uint32_t place)
{
	return ANSWERS_POLL | (uint64_t)answers->ports[place].generation << 32 | place;
}

static struct io_uring_sqe *next_sqe(struct answers *answers)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(answers->uring);

	if (!sqe && io_uring_submit(answers->uring) >= 0)
		sqe = io_uring_get_sqe(answers->uring);
	return sqe;
}

static int poll_port(struct answers *answers, uint32_t place)
{
	struct io_uring_sqe *sqe = next_sqe(answers);

	if (!sqe)
		return -EBUSY;
	io_uring_prep_poll_add(sqe, (int)(EGRESS_PLACES + place), POLLIN);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data64(sqe, poll_of(answers, place));
	answers->ports[place].polled = 1;
	return 0;
}

int answers_listen(struct answers *answers, uint32_t place, const struct output *to, const uint64_t *asked,
		   uint64_t within)
{
	struct answers_port *port = &answers->ports[place];

	port->listens = 1;
	port->to = *to;
	port->asked = asked;
	port->within = within;
	return port->polled ? 0 : poll_port(answers, place);
}

/* A poll holds its socket, and with that the port: it has to end too. */
int answers_end(struct answers *answers, uint32_t place)
{
	struct answers_port *port = &answers->ports[place];
	struct io_uring_sqe *sqe;

	port->listens = 0;
	if (port->polled) {
		sqe = next_sqe(answers);
		if (!sqe)
			return -EBUSY;
		io_uring_prep_cancel64(sqe, poll_of(answers, place), 0);
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE); /* as all that the ring takes */
		io_uring_sqe_set_data64(sqe, EGRESS_CANCEL);
		port->polled = 0;
	}
	port->generation = (port->generation + 1) % GENERATIONS;
	return 0;
}

static void enqueue(struct answers *answers, uint32_t place)
{
	struct answers_port *port = &answers->ports[place];

	if (port->queued)
		return;
	port->queued = 1;
	answers->queue[(answers->head + answers->count++) % answers->places] = place;
}

int answers_complete(struct answers *answers, const struct io_uring_cqe *cqe)
{
	uint32_t place = (uint32_t)cqe->user_data;

	if (cqe->user_data & ANSWERS_POLL) {
		/* One that failed is looked at too, and polled again. */
		if (cqe->user_data == poll_of(answers, place)) {
			answers->ports[place].polled = 0;
			enqueue(answers, place);
		}
		return 1;
	}
	if (cqe->user_data & ANSWERS_RECEIVE) {
		answers->results[place] = cqe->res;
		answers->pending--;
		return 1;
	}
	return 0;
}

/* Places of the queue at which somebody listens. */
static uint32_t dequeue(struct answers *answers, uint32_t *places)
{
	uint32_t found = 0;

	while (answers->count > 0 && found < ANSWERS_AT_ONCE) {
		uint32_t place = answers->queue[answers->head];

		answers->head = (answers->head + 1) % answers->places;
		answers->count--;
		answers->ports[place].queued = 0;
		if (answers->ports[place].listens)
			places[found++] = place;
	}
	return found;
}

static int receive(struct answers *answers, const uint32_t *places, uint32_t count, egress_other *other, void *context)
{
	uint32_t i;

	for (i = 0; i < count; i++) {
		struct io_uring_sqe *sqe = next_sqe(answers);

		if (!sqe)
			return -EBUSY;
		answers->vectors[i] = (struct iovec){ answers->buffers + (size_t)i * ANSWERS_BYTES, ANSWERS_BYTES };
		answers->headers[i] = (struct msghdr){ .msg_iov = &answers->vectors[i], .msg_iovlen = 1 };
		io_uring_prep_recvmsg(sqe, (int)(EGRESS_PLACES + places[i]), &answers->headers[i], MSG_DONTWAIT);
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
		io_uring_sqe_set_data64(sqe, ANSWERS_RECEIVE | i);
		answers->pending++;
	}
	while (answers->pending > 0) {
		struct io_uring_cqe *cqe;
		unsigned int head, seen = 0;
		int result = io_uring_submit_and_wait(answers->uring, 1);

		if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
			return result;
		io_uring_for_each_cqe(answers->uring, head, cqe) {
			seen++;
			other(context, cqe);
		}
		io_uring_cq_advance(answers->uring, seen);
	}
	return 0;
}

int answers_take(struct answers *answers, uint64_t now, egress_other *other, void *context)
{
	uint32_t places[ANSWERS_AT_ONCE], batch = dequeue(answers, places), i;
	int result = receive(answers, places, batch, other, context);

	answers->egress->time = now;
	for (i = 0; i < batch && result >= 0; i++) {
		const struct answers_port *port = &answers->ports[places[i]];
		int length = answers->results[i];

		if (length < 0) {
			/* What an earlier question drew, and nothing is there: udp(7). */
			if (length != -EAGAIN && length != -EINTR)
				count(&port->to.counters->refused, 1);
		} else if (now > *port->asked && now - *port->asked > port->within) {
			count(&port->to.counters->late, 1);
		} else {
			result = egress_add(answers->egress, &port->to, answers->buffers + (size_t)i * ANSWERS_BYTES,
					    (uint32_t)length, other, context);
		}
	}
	if (result >= 0)
		result = egress_flush(answers->egress, other, context);
	for (i = 0; i < batch && result >= 0; i++)
		if (!answers->ports[places[i]].polled)
			result = poll_port(answers, places[i]);
	return result;
}
