/* What a merged stream holds back, so that it leaves in order: sent when it is due, or has waited for its time.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_HELD_H
#define MCRD_HELD_H

#include "worker.h"

/* The stream has an order from now on, with this delay in ns; or none. Nothing may be held. 0, -ENOMEM, or -ENOSPC
 * where MCRD_ORDERED_STREAMS have one. */
int held_begin(struct worker *worker, struct merge_stream *stream, uint64_t delay);
void held_end(struct worker *worker, struct merge_stream *stream);

/* What the worker before this one held of the rule, and cannot send any more. */
void held_count_lost(struct worker *worker, const struct rule *rule);

/* A datagram of a stream with an order. Returns 0 when it is to be sent now, and held_send_due() to be called then; 1
 * when it is held, or dropped and counted. As all that follow: or a negative errno of the engine. `now` is the time of its
 * frame. */
int held_take(struct worker *worker, struct interface_counters *here, struct rule *rule, const struct packet *packet,
	      const uint8_t *payload, uint32_t length, uint64_t now);
int held_send_due(struct worker *worker, struct order *order);

/* Sends what has waited for its time. It is over when all that came within it was looked at: `now` is when a harvest began,
 * which was flushed. `more`: it has left frames in the rings, and time is that of the last one that it took. */
int held_expire(struct worker *worker, int more, uint64_t now);

/* How long until something has waited for its time, or `other`, whichever is less; in ns, 0: neither. */
uint64_t held_sleep(const struct worker *worker, uint64_t other);

/* Sends all that is held of the stream that the rule of this slot is a leg of; of all streams. */
int held_send_of(struct worker *worker, uint32_t slot);
int held_send_all(struct worker *worker);

#endif
