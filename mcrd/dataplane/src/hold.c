/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "hold.h"

int hold_lasts(struct worker *worker)
{
	struct breaker_test *test = &worker->test;
	uint64_t now;
	uint32_t i;

	if (!test->held)
		return 0;
	now = pace_real_now();
	test->held = now < test->ends && now >= test->began;
	for (i = 0; i < worker->settings.interface_count; i++)
		if (interface_is_half_full(&worker->interfaces[i])) {
			test->came = test->expected; /* it goes on */
			test->held = 0;
		}
	return test->held;
}

void hold_end(struct worker *worker)
{
	struct breaker_test *test = &worker->test;
	struct rule *rule = worker->rules.by_slot[test->rule];

	if (rule)
		breaker_end(&rule->breaker, test, (uint32_t)(test->ends / 1000000));
	*test = (struct breaker_test){ 0 };
}
