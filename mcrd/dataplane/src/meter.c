/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "meter.h"

#include <string.h>

#define SECOND_NS 1000000000ULL

enum { WINDOWS = SECOND_NS / METER_WINDOW_NS, FIVE = 5, FIVES_A_MINUTE = 12, ATTEMPTS = 100 };

static void add(struct span *to, const struct span *from)
{
	to->traffic.packets += from->traffic.packets;
	to->traffic.bytes += from->traffic.bytes;
	if (to->peak < from->peak)
		to->peak = from->peak;
}

static void close_second(struct meter *meter)
{
	uint64_t tag = meter->second.tag, five = tag / FIVE;
	struct span *in = &meter->fives[five % MCRD_FIVES];

	meter->seconds[tag % MCRD_SECONDS] = meter->second;
	if (in->tag != five)
		*in = (struct span){ .tag = five };
	add(in, &meter->second);
}

/* Frames of two CPUs have times that may go back a little; a clock that is set goes back by more. */
static int is_a_little_earlier(uint64_t began, uint64_t now)
{
	return now < began && began - now < SECOND_NS;
}

uint64_t meter_roll(struct meter *meter, const struct traffic *traffic, uint64_t now)
{
	uint64_t window = now / METER_WINDOW_NS, began = meter->window * METER_WINDOW_NS, changes = meter->changes & ~1ULL;
	struct span closed;

	if (window == meter->window || is_a_little_earlier(began, now))
		return began;
	closed = (struct span){
		.traffic = { traffic->packets - meter->before.packets, traffic->bytes - meter->before.bytes },
		.peak = traffic->packets - meter->before.packets,
	};
	__atomic_store_n(&meter->changes, changes + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	add(&meter->second, &closed);
	if (meter->second.tag != window / WINDOWS) {
		close_second(meter);
		meter->second = (struct span){ .tag = window / WINDOWS };
	}
	meter->window = window;
	meter->before = *traffic;
	__atomic_store_n(&meter->changes, changes + 2, __ATOMIC_RELEASE);
	return window * METER_WINDOW_NS;
}

/* A copy of which nothing changed meanwhile, as far as that can be had of a worker that may be compromised. */
static void copy(const struct meter *meter, const struct traffic *traffic, struct meter *to, struct traffic *counted)
{
	uint64_t before, after;
	int i;

	for (i = 0; i < ATTEMPTS; i++) {
		before = __atomic_load_n(&meter->changes, __ATOMIC_ACQUIRE);
		memcpy(to, meter, sizeof(*to));
		counted->packets = __atomic_load_n(&traffic->packets, __ATOMIC_RELAXED);
		counted->bytes = __atomic_load_n(&traffic->bytes, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		after = __atomic_load_n(&meter->changes, __ATOMIC_RELAXED);
		if (before == after && before % 2 == 0)
			return;
	}
}

/* What the meter shows at `now`. Whole seconds: the one before this, and the sixty or so before it. */
void meter_read(const struct meter *meter, const struct traffic *traffic, uint64_t now, struct rates *rates)
{
	uint64_t second = now / SECOND_NS, five = second / FIVE, i;
	const struct span *last;
	struct traffic counted;
	struct meter at;
	struct span minute = { 0 };

	copy(meter, traffic, &at, &counted);
	meter_roll(&at, &counted, now);
	last = &at.seconds[(second - 1) % MCRD_SECONDS];
	*rates = (struct rates){ .minute_seconds = 5 * FIVES_A_MINUTE + second % FIVE };
	if (last->tag == second - 1) {
		rates->second = last->traffic;
		rates->second_peak = last->peak;
	}
	for (i = 0; i < MCRD_FIVES; i++)
		if (at.fives[i].tag <= five && at.fives[i].tag + FIVES_A_MINUTE >= five)
			add(&minute, &at.fives[i]);
	rates->minute = minute.traffic;
	rates->minute_peak = minute.peak;
	if (at.second.tag == second && at.second.peak > rates->second_peak)
		rates->second_peak = at.second.peak;
	if (rates->minute_peak < rates->second_peak)
		rates->minute_peak = rates->second_peak;
}
