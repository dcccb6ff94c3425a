/* The inspector as a library for Python: datagrams in, counters out.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "inspect.h"

#include <stdlib.h>
#include <string.h>

struct replay {
	struct inspect_counters counters;
	struct hash_light_seed seed;
	struct inspector *inspector;
	uint32_t used;
};

struct replay *replay_new(const struct inspect_settings *settings)
{
	struct replay *replay = calloc(1, sizeof(*replay));

	if (!replay)
		abort();
	replay->inspector = inspector_new(settings, &replay->counters, &replay->seed, &replay->used);
	if (!replay->inspector)
		abort();
	return replay;
}

const struct inspect_counters *replay_counters(const struct replay *replay)
{
	return &replay->counters;
}

void replay_free(struct replay *replay)
{
	inspector_free(replay->inspector);
	free(replay);
}

void replay_give(struct replay *replay, uint32_t source, const uint8_t *data, uint32_t length, uint64_t now)
{
	uint8_t from[16] = { 0 }, to[16] = { 0 };
	struct packet packet = {
		.source = from,
		.destination = to,
		.payload = data,
		.payload_length = length,
		.family = 4,
		.protocol = PROTOCOL_UDP,
	};

	memcpy(from, &source, sizeof(source));
	inspect(replay->inspector, &packet, data, length, now);
}
