/* The memory segment that a worker and its supervisor share: the worker alone writes, one 64-bit store a
 * counter; the supervisor alone reads, whenever it likes. The supervisor zeroes a slot before it gives
 * it to a worker, and chooses which slot belongs to which rule and output, so that counters outlive workers.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_COUNTERS_H
#define MCRD_COUNTERS_H

#include <stdint.h>

#include "shared.h"

static inline void count(uint64_t *counter, uint64_t by)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + by, __ATOMIC_RELAXED);
}

void count_errors(struct output_counters *output, int error, uint64_t by);

#endif
