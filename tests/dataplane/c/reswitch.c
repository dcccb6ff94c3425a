/* The choice between legs as a library for Python: which of them is in use, and whether what comes by one passes.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "switch.h"

#include <stdlib.h>
#include <string.h>

struct reswitch {
	struct switch_stream *streams, *stream;
	struct switch_settings settings;
	struct switch_counters counters[MCRD_LEGS];
	uint32_t there; /* a bit for each leg */
};

struct reswitch *reswitch_new(uint64_t silence, uint64_t back)
{
	struct reswitch *made = calloc(1, sizeof(*made));

	if (!made)
		abort();
	made->settings = (struct switch_settings){ .copies = { .stream = 7 }, .silence = silence, .back = back };
	return made;
}

static void join(struct reswitch *made, uint8_t leg, uint64_t now)
{
	made->settings.copies.leg = leg;
	made->stream = switch_join(&made->streams, &made->settings, &made->counters[leg], now);
	if (!made->stream)
		abort();
}

void reswitch_join(struct reswitch *made, uint8_t leg, uint64_t now)
{
	made->there |= 1U << leg;
	join(made, leg, now);
}

/* With its rule, what it counted goes. */
void reswitch_leave(struct reswitch *made, uint8_t leg)
{
	made->there &= ~(1U << leg);
	switch_leave(&made->streams, made->stream, &made->counters[leg]);
	memset(&made->counters[leg], 0, sizeof(made->counters[leg]));
}

/* Each rule is replaced. */
void reswitch_choose(struct reswitch *made, uint8_t number, uint64_t now)
{
	uint8_t leg;

	made->settings.chosen = number;
	for (leg = 0; leg < MCRD_LEGS; leg++) {
		if (!(made->there & 1U << leg))
			continue;
		switch_leave(&made->streams, made->stream, &made->counters[leg]);
		join(made, leg, now);
	}
}

/* Another worker finds the counters as they are. */
void reswitch_again(struct reswitch *made, uint64_t now)
{
	struct switch_stream *old = made->streams;
	uint8_t leg;

	made->streams = NULL;
	free(old);
	for (leg = 0; leg < MCRD_LEGS; leg++)
		if (made->there & 1U << leg)
			join(made, leg, now);
}

int reswitch_give(struct reswitch *made, uint8_t leg, uint64_t now)
{
	return switch_passes(made->stream, &made->counters[leg], leg, now);
}

/* A bit for each leg that says that it is in use. */
uint32_t reswitch_used(const struct reswitch *made)
{
	uint32_t used = 0, leg;

	for (leg = 0; leg < MCRD_LEGS; leg++)
		used |= (uint32_t)made->counters[leg].used << leg;
	return used;
}

void reswitch_free(struct reswitch *made)
{
	free(made->streams);
	free(made);
}
