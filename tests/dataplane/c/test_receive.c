/* The table of flows of mcrgen receive, when somebody chooses what flows there are.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "../../../mcrd/traffic/src/receive.c"

#include "check.h"

enum { FLOWS_CHOSEN = 4096 };

static uint64_t inverse(uint64_t odd)
{
	uint64_t found = odd;
	int i;

	for (i = 0; i < 5; i++)
		found *= 2 - odd * found;
	return found;
}

/* Slots that are looked at until each flow has been found once. */
static uint64_t steps(int at_random)
{
	struct traffic_receiver *receiver = check_allocate(sizeof(*receiver));
	const uint32_t mask = (1u << SPACE_BITS) - 1;
	uint64_t random = 5, total = 0;
	uint32_t i;

	memset(receiver, 0, sizeof(*receiver));
	receiver->epoll = -1;
	CHECK(draw_secret(receiver));
	for (i = 0; i < FLOWS_CHOSEN; i++) {
		/* All of one slot, where the key times this constant says which. */
		uint64_t key = (77ULL << (64 - SPACE_BITS) | i) * inverse(0x9E3779B97F4A7C15ULL);

		if (at_random)
			key = (uint64_t)check_random(&random) << 32 | check_random(&random);
		CHECK(find_space(receiver, key) != NULL);
	}
	CHECK_EQUAL(receiver->result.sequences, FLOWS_CHOSEN);
	for (i = 0; i <= mask; i++)
		if (receiver->spaces[i])
			total += 1 + ((i - slot_of(receiver, receiver->spaces[i]->key)) & mask);
	traffic_receiver_free(receiver);
	return total;
}

int main(void)
{
	check_about("flows");
	CHECK(steps(0) < 2 * steps(1)); /* by the product alone, 8 million against 4,400 */
	return check_result();
}
