/* What passed in the last second and minute, and the peak over 10 ms: packets that come in bursts are lost at rates
 * that look harmless. The worker writes once in 10 ms; all else is the reader's work, whenever it likes.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_METER_H
#define MCRD_METER_H

#include <stdint.h>

#include "shared.h"

#define METER_WINDOW_NS 10000000ULL

/* Closes the window that is open, if `now` (of the real-time clock, in ns) is in another one. `traffic` is what was
 * counted so far. Returns when the open one begins. */
uint64_t meter_roll(struct meter *meter, const struct traffic *traffic, uint64_t now);

/* Call it before something that came at `now` is counted. `began` is the caller's copy of what meter_roll() said. */
static inline void meter_note(struct meter *meter, const struct traffic *traffic, uint64_t *began, uint64_t now)
{
	if (now - *began >= METER_WINDOW_NS)
		*began = meter_roll(meter, traffic, now);
}

#endif
