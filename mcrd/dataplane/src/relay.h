/* What becomes of a frame: which of its datagrams are relayed, by which outputs, and why the others are not.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_RELAY_H
#define MCRD_RELAY_H

#include "arrival.h"

/* One frame, which may stand for several datagrams; or a negative errno. */
int relay_frame(struct worker *worker, struct arrival *arrival);

#endif
