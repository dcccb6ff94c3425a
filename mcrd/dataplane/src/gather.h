/* What goes to one socket is gathered into runs, which egress.c sends: egress_add() is here.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_GATHER_H
#define MCRD_GATHER_H

#include "egress.h"

enum { GATHER_NONE = EGRESS_RUNS /* no run */, GATHER_ANY = 65536 /* longer than any datagram */ };

/* From here on, the socket's datagrams of this length and more go one by one, for a time (0: for good). */
void gather_below(struct egress_socket *socket, uint32_t length, uint64_t time);

#endif
