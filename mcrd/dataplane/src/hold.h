/* While a rule is put to the test (breaker.h), nothing is relayed: all waits in the rings.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_HOLD_H
#define MCRD_HOLD_H

#include "worker.h"

/* Does all wait? Not where there is no room to. */
int hold_lasts(struct worker *worker);

/* All that came during the test has been looked at. */
void hold_end(struct worker *worker);

#endif
