/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "egress.h"

#include <errno.h>

/* A connected socket reports an ICMP error that an earlier datagram drew at the next write, which then sends
 * nothing (ip(7), IP_RECVERR; udp(7)). A second try tells such a report from an error of the write itself. */
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

static void prepare(struct egress *egress, uint32_t index)
{
	struct send *send = &egress->sends[index];
	struct io_uring_sqe *sqe = io_uring_get_sqe(egress->uring);

	/* The queue has room for a whole batch and what else a worker has under way: never NULL. */
	io_uring_prep_writev(sqe, (int)(EGRESS_PLACES + send->output->socket), &send->data, 1, 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data64(sqe, EGRESS_FIRST + index);
	/* Where a send buffer is full io_uring would wait for room, O_NONBLOCK or not, and hold up every other flow. */
	if (!egress->waits)
		sqe->rw_flags = RWF_NOWAIT;
}

/* Without RWF_NOWAIT: what has not been sent by now waits for room, and is given up. */
static void cancel_waiting(struct egress *egress)
{
	uint32_t i;

	for (i = 0; i < egress->count; i++) {
		struct io_uring_sqe *sqe;

		if (egress->sends[i].done)
			continue;
		sqe = io_uring_get_sqe(egress->uring);
		io_uring_prep_cancel64(sqe, EGRESS_FIRST + i, 0);
		io_uring_sqe_set_data64(sqe, EGRESS_CANCEL);
	}
}

/* Counts a finished send; 1 when it has to be tried again. */
static int finish(struct egress *egress, uint32_t index, int result)
{
	struct send *send = &egress->sends[index];
	struct output_counters *counters = send->output->counters;

	if (result >= 0) {
		count(&counters->packets, 1);
		count(&counters->bytes, send->data.iov_len);
		if (send->retried)
			count(&counters->refused, 1);
		return 0;
	}
	if (result == -EOPNOTSUPP && !egress->waits) {
		egress->waits = 1;
		return 1;
	}
	if (!send->retried && may_be_a_report(-result)) {
		send->retried = 1;
		return 1;
	}
	count_error(counters, result == -ECANCELED ? EAGAIN : -result);
	return 0;
}

int egress_flush(struct egress *egress, egress_other *other, void *context)
{
	uint32_t i, pending = egress->count;

	for (i = 0; i < egress->count; i++)
		prepare(egress, i);
	while (pending > 0) {
		struct io_uring_cqe *cqe;
		unsigned int head, seen = 0;
		int result;

		result = egress->waits ? io_uring_submit(egress->uring) : io_uring_submit_and_wait(egress->uring, 1);

		if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
			return result;
		io_uring_for_each_cqe(egress->uring, head, cqe) {
			seen++;
			if (cqe->user_data < EGRESS_FIRST) {
				other(context, cqe);
			} else {
				uint32_t index = (uint32_t)(cqe->user_data - EGRESS_FIRST);

				if (finish(egress, index, cqe->res)) {
					prepare(egress, index);
				} else {
					egress->sends[index].done = 1;
					pending--;
				}
			}
		}
		io_uring_cq_advance(egress->uring, seen);
		if (egress->waits && pending > 0 && seen == 0) {
			cancel_waiting(egress);
			result = io_uring_submit_and_wait(egress->uring, 1);
			if (result < 0 && result != -EINTR)
				return result;
		}
	}
	egress->count = 0;
	return 0;
}

int egress_add(struct egress *egress, const struct output *output, const uint8_t *data, uint32_t length,
	       egress_other *other, void *context)
{
	struct send *send;

	if (egress->count == EGRESS_BATCH) {
		int result = egress_flush(egress, other, context);

		if (result < 0)
			return result;
	}
	send = &egress->sends[egress->count++];
	send->output = output;
	send->data.iov_base = (void *)(uintptr_t)data;
	send->data.iov_len = length;
	send->retried = 0;
	send->done = 0;
	return 0;
}
