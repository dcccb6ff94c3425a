/* One stream that comes by several inputs, its legs, one of which is in use: what comes by that passes, the rest does not.
 *
 * The first leg that brings something is in use. When it has been silent for a while, the first in order that flows
 * takes over; one before it in order does when it has been steady. Times are those of frames. So a worker that takes
 * over late finds no silence that there was not. A clock that is set counts as silence, and costs nothing while
 * both flow. The state is in the counters of the legs: the worker that replaces this one goes on.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_SWITCH_H
#define MCRD_SWITCH_H

#include "shared.h"

struct switch_stream {
	struct switch_stream *next;
	uint64_t id;
	uint64_t silence; /* ns */
	uint64_t back;    /* ns; 0: never */
	uint32_t users;
	uint8_t used;   /* the leg in use, from 1; 0: none yet */
	uint8_t chosen; /* by hand, likewise */
	struct switch_counters *legs[MCRD_LEGS]; /* NULL: not there now */
};

int switch_is_possible(const struct switch_settings *settings);

/* The stream of these settings, which has one more user; NULL: no memory. `now` is in ns from the epoch. */
struct switch_stream *switch_join(struct switch_stream **streams, const struct switch_settings *settings,
				  struct switch_counters *counters, uint64_t now);
void switch_leave(struct switch_stream **streams, struct switch_stream *stream, const struct switch_counters *counters);

/* Does what comes by this leg pass? `now` is the time of its frame, in ns. */
int switch_passes(struct switch_stream *stream, const struct switch_counters *own, uint8_t leg, uint64_t now);

#endif
