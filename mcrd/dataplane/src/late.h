/* What waited for the sockets of its member: sent as soon as they are there.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_LATE_H
#define MCRD_LATE_H

#include "worker.h"

/* Sends what waits for members that are open now, before anything that comes later. Returns 0, or a negative errno of
 * the engine. */
int late_send(struct worker *worker, egress_other *other);

#endif
