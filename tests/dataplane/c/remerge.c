/* The merging of legs as a library for Python: datagrams in, whether they pass and counters out.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "merge.h"

#include <stdlib.h>
#include <string.h>

struct remerge {
	struct merge_stream *streams, *stream;
	struct merge_settings settings[MCRD_LEGS];
	struct merge_counters counters[MCRD_LEGS];
	struct guard_memory shared;
	struct guard guard;
	struct merge_copy copies[MCRD_MERGE_COPIES];
};

struct remerge *remerge_new(uint8_t by, uint32_t offset, uint8_t bytes)
{
	struct remerge *remerge = calloc(1, sizeof(*remerge));
	uint8_t leg;

	if (!remerge)
		abort();
	for (leg = 0; leg < MCRD_GUARD_SEEDS; leg++)
		remerge->shared.seed[leg] = 0x9e3779b97f4a7c15ULL * (leg + 1U);
	guard_init(&remerge->guard, &remerge->shared);
	for (leg = 0; leg < MCRD_LEGS; leg++) {
		remerge->settings[leg] =
			(struct merge_settings){ .stream = 7, .by = by, .leg = leg, .offset = offset, .bytes = bytes };
		if (!merge_is_possible(&remerge->settings[leg]))
			abort();
		remerge->stream =
			merge_join(&remerge->streams, &remerge->settings[leg], &remerge->counters[leg]);
		if (!remerge->stream)
			abort();
	}
	return remerge;
}

/* As the worker that replaces another: what passed is known, and nothing else. */
void remerge_again(struct remerge *remerge)
{
	uint8_t leg;

	for (leg = 0; leg < MCRD_LEGS; leg++)
		merge_leave(&remerge->streams, remerge->stream, &remerge->counters[leg]);
	if (remerge->streams)
		abort();
	for (leg = 0; leg < MCRD_LEGS; leg++)
		remerge->stream =
			merge_join(&remerge->streams, &remerge->settings[leg], &remerge->counters[leg]);
}

/* As a worker of a build that has another hash. */
void remerge_with_another_hash(struct remerge *remerge)
{
	remerge->shared.seed[0]++;
	guard_init(&remerge->guard, &remerge->shared);
	remerge_again(remerge);
}

void remerge_free(struct remerge *remerge)
{
	uint8_t leg;

	for (leg = 0; leg < MCRD_LEGS; leg++)
		merge_leave(&remerge->streams, remerge->stream, &remerge->counters[leg]);
	free(remerge);
}

const uint64_t *remerge_counters(const struct remerge *remerge, uint8_t leg)
{
	return &remerge->counters[leg].received;
}

int remerge_give(struct remerge *remerge, uint8_t leg, const uint8_t *data, uint32_t length, uint64_t now)
{
	struct merge_name name;

	merge_look(&remerge->settings[leg], remerge->copies, &remerge->guard, data, length, &name);
	return merge_is_first(remerge->stream, leg, remerge->copies, &name, 0, now);
}
