/* MPEG transport streams (ISO/IEC 13818-1, 2.4.3): continuity counters by PID, sync bytes, transport errors, PCRs.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_MPEGTS_H
#define MCRD_MPEGTS_H

#include "rtp.h"

enum { TS_PACKET = 188, TS_SYNC = 0x47, TS_PIDS = 8192, TS_CLOCKS = 8 /* PIDs of a flow whose PCRs are followed */ };

struct ts_clock {
	uint16_t pid;
	uint64_t pcr; /* of 27 MHz */
	uint64_t time;
	struct jitter jitter;
};

struct ts {
	uint32_t clock_count;
	struct ts_clock clocks[TS_CLOCKS];
	uint8_t pids[TS_PIDS]; /* the continuity counter that follows, and whether one was before, and a duplicate */
};

/* Does it look like packets of a transport stream? */
int ts_is(const uint8_t *data, uint32_t length);

/* The packets of a datagram. */
void ts_note(struct ts *ts, const uint8_t *data, uint32_t length, uint64_t now, struct inspect_counters *counters);

#endif
