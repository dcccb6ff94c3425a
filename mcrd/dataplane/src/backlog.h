/* The backlog of a rule that stands by while another host relays: what came last, for as long as the rule says.
 *
 * When the rule takes over, it sends that first. Else what the other host did not send any more would be missing. It does so at
 * BACKLOG_SPEED times the pace at which it came, since all at once would overflow what is behind. What comes meanwhile is
 * appended, so the order stays.
 *
 * What the legs of a stream have kept leaves in the order in which it came: they wait until each is told, for
 * BACKLOG_SILENCE_NS at most, and none relays before all that are told have sent what they kept. One that goes meanwhile sends
 * its own, and what came before that, at once.
 *
 * All rules of a worker share one memory, which is used in a circle: when it is full, the oldest goes. It is made when the
 * first rule needs it.
 *
 * Where the only output is a group, what the other host sends is heard, and kept no more: so what is kept is what that did not
 * send. Legs of a stream have one such place: each datagram that is heard there stands for one of theirs. A rule that takes over waits until the other one is silent, for this one may be told sooner; but no longer than
 * the backlog may be old. Who is silent is known only by what comes: until something does, the rule waits for all that time.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_BACKLOG_H
#define MCRD_BACKLOG_H

#include "arrival.h"

#define BACKLOG_SPEED 4

/* So long, in ns, says the other host nothing before it is taken for silent: longer than it may be held up with a packet
 * that both have. At most half of the backlog's own time. */
#define BACKLOG_SILENCE_NS 200000000ULL

struct backlog;

/* Makes the memory, if a rule needs it. 0 or -ENOMEM. */
int backlog_prepare(struct worker *worker, const struct rule_match *match);

/* A rule is put in the place of one that may have a backlog: it goes on with that, or takes over. */
void backlog_begin(struct worker *worker, struct rule *rule);

/* Another host has sent a datagram: `context` is the worker, the rest as answers_told(). */
void backlog_overhear(void *context, uint32_t place, uint32_t slot, const uint8_t *data, uint32_t length);

/* The rule is removed: one that takes over sends what it has at once, of others it is counted as what stood by. */
void backlog_end(struct worker *worker, uint32_t slot);

void backlog_free(struct worker *worker);

/* Keeps a datagram that the rule takes. 0, or what egress_add() says. */
int backlog_keep(struct worker *worker, struct rule *rule, const struct packet *packet, const uint8_t *payload,
		 uint32_t length, uint64_t now);

/* Sends what is due of rules that take over. `now` is CLOCK_REALTIME, in ns. 0, or what egress_add() says. */
int backlog_send(struct worker *worker, uint64_t now);

/* Sends all that such rules have, at once: the worker ends. */
int backlog_send_all(struct worker *worker);

/* For how long nothing is due, in ns; `other`: for how long another thing is not. 0: for ever. */
uint64_t backlog_sleep(const struct worker *worker, uint64_t other);

#endif
