/* Checks that go on after a failure, so that one run shows all that is wrong.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { CHECK_FAILURES_MAX = 40 };

static unsigned int check_failures;
static char check_subject[64];

/* What the checks that follow are about; it stands in front of their messages. */
static inline void check_about(const char *subject)
{
	snprintf(check_subject, sizeof(check_subject), "%s", subject);
}

static inline void check_failed(const char *file, int line)
{
	fprintf(stderr, "%s:%d: %s: ", file, line, check_subject);
	if (++check_failures == CHECK_FAILURES_MAX) {
		fprintf(stderr, "too many failures\n");
		exit(1);
	}
}

#define CHECK(condition)                                       \
	do {                                                   \
		if (!(condition)) {                            \
			check_failed(__FILE__, __LINE__);      \
			fprintf(stderr, "%s\n", #condition);   \
		}                                              \
	} while (0)

#define CHECK_EQUAL(got, wanted)                                                                     \
	do {                                                                                         \
		long long check_got = (long long)(got), check_wanted = (long long)(wanted);          \
		if (check_got != check_wanted) {                                                     \
			check_failed(__FILE__, __LINE__);                                            \
			fprintf(stderr, "%s is %lld, not %lld\n", #got, check_got, check_wanted);    \
		}                                                                                    \
	} while (0)

static inline int check_result(void)
{
	if (check_failures)
		fprintf(stderr, "%u checks failed\n", check_failures);
	return check_failures ? 1 : 0;
}

/* The same numbers in every run (xorshift64*). */
static inline uint32_t check_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (uint32_t)(*state * 0x2545f4914f6cdd1dULL >> 32);
}

static inline void *check_allocate(size_t size)
{
	void *memory = malloc(size);

	if (!memory)
		abort();
	return memory;
}

#endif
