/*
 * A histogram of times: finer than 2 % whatever they are, in 16 KiB.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#ifndef MCRD_HISTOGRAM_H
#define MCRD_HISTOGRAM_H

#include <stdint.h>

enum {
    FINE_BITS = 6, /* buckets in each power of two */
    RANGE_BITS = 36,
    BUCKETS = (RANGE_BITS - FINE_BITS + 1) << FINE_BITS,
};

#define HISTOGRAM_END (1ll << RANGE_BITS) /* ns: it holds what is less */

struct histogram {
    uint64_t counts[BUCKETS];
};

static inline uint32_t bucket_of(uint64_t ns)
{
    if (ns < 1u << FINE_BITS)
        return (uint32_t)ns;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(ns) - FINE_BITS;
    uint32_t bucket = (shift << FINE_BITS) + (uint32_t)(ns >> shift);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static inline uint64_t middle_of(uint32_t bucket)
{
    if (bucket < 2u << FINE_BITS)
        return bucket;
    uint32_t shift = (bucket >> FINE_BITS) - 1;
    uint64_t low = (uint64_t)((bucket & ((1u << FINE_BITS) - 1)) | 1u << FINE_BITS) << shift;
    return low + (1ull << shift) / 2;
}

static inline void histogram_note(struct histogram *histogram, uint64_t ns)
{
    histogram->counts[bucket_of(ns)]++;
}

/* `noted` is how many times it holds. */
static inline uint64_t histogram_percentile(const struct histogram *histogram, uint64_t noted,
                                            uint64_t percent)
{
    uint64_t rank = (noted * percent + 99) / 100;
    uint64_t below = 0;
    for (uint32_t bucket = 0; bucket < BUCKETS; bucket++) {
        below += histogram->counts[bucket];
        if (below >= rank)
            return middle_of(bucket);
    }
    return 0;
}

#endif
