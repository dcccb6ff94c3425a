/* What is sent some time after it came: by held.c, of a rule whose outputs are its own, and by backlog.c.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_KEPT_H
#define MCRD_KEPT_H

#include "worker.h"

/* Lets the outputs choose by the source: returns which of them skip it, by the numbers of their choices. */
uint64_t kept_choose(struct rule *rule, const uint8_t *source);

/* Sends a datagram to all outputs that take it, those by member too, and counts it as relayed now; *kept is how many are
 * kept. `packet` has the addresses that it came with. What has no member yet waits for it. 0, or what egress_add() says. */
int kept_send_on(struct worker *worker, struct rule *rule, uint64_t *kept, const struct packet *packet,
		 const uint8_t *payload, uint32_t length);

/* Sends a datagram to all outputs but those that skip it, and counts it as relayed now; *kept is how many are kept. 0, or
 * what egress_add() says. */
int kept_send(struct worker *worker, struct rule *rule, uint64_t *kept, uint64_t skipping, const uint8_t *payload,
	      uint32_t length);

#endif
