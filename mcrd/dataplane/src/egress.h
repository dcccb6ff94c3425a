/* Egress: datagrams straight from ring memory to connected UDP sockets, WRITEV through io_uring.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_EGRESS_H
#define MCRD_EGRESS_H

#include <liburing.h>
#include <poll.h>

#include "counters.h"
#include "rules.h"

enum { EGRESS_BATCH = 512 };

struct send {
	const struct output *output;
	struct iovec data;
	uint8_t retried;
	uint8_t done;
};

struct egress {
	struct io_uring *uring;
	int waits; /* the kernel knows no RWF_NOWAIT for sockets (before Linux 6.5): it has to be told to give up */
	uint32_t count;
	struct send sends[EGRESS_BATCH];
};

/* A completion that is none of a send: what flush() found while it waited for its own. */
typedef void egress_other(void *context, const struct io_uring_cqe *cqe);

/* What stands in a send's user_data; other operations use smaller numbers, up to EGRESS_CANCEL. */
enum { EGRESS_CANCEL = 15, EGRESS_FIRST = 16, EGRESS_PLACES = 2 /* where the file table's sockets begin */ };

/* Both return 0, or a negative errno of io_uring itself. The data must stay until egress_flush() has returned. */
int egress_add(struct egress *egress, const struct output *output, const uint8_t *data, uint32_t length,
	       egress_other *other, void *context);
int egress_flush(struct egress *egress, egress_other *other, void *context);

#endif
