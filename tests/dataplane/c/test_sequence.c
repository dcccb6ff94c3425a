/* sequence.c: what is counted is what was done to the numbers, whatever their width and wherever they wrap.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "sequence.h"

#include <string.h>

#include "check.h"

#define SECOND 1000000000ULL
#define BEGIN (1700000000 * SECOND)
#define MILLISECOND 1000000ULL

struct stream {
	struct sequence sequence;
	struct sequence_kind kind;
	struct inspect_counters counters;
	uint64_t now;
};

static struct stream begin(unsigned int bits, uint64_t first)
{
	struct stream stream = { .kind = sequence_kind(bits), .now = BEGIN };

	sequence_note(&stream.sequence, &stream.kind, first & stream.kind.mask, stream.now, &stream.counters);
	return stream;
}

static void come(struct stream *stream, uint64_t number)
{
	stream->now += MILLISECOND / 10;
	sequence_note(&stream->sequence, &stream->kind, number & stream->kind.mask, stream->now, &stream->counters);
}

static void come_all(struct stream *stream, uint64_t from, uint64_t to)
{
	while (from != to)
		come(stream, from++);
}

static void check(const struct stream *stream, uint64_t lost, uint64_t missing, uint64_t reordered, uint64_t repeated,
		  uint64_t stray, uint64_t resets)
{
	CHECK_EQUAL(stream->counters.lost, lost);
	CHECK_EQUAL(stream->counters.missing, missing);
	CHECK_EQUAL(stream->sequence.missing, missing);
	CHECK_EQUAL(stream->counters.reordered, reordered);
	CHECK_EQUAL(stream->counters.repeated, repeated);
	CHECK_EQUAL(stream->counters.stray, stray);
	CHECK_EQUAL(stream->counters.resets, resets);
}

static const unsigned int widths[] = { 8, 16, 24, 32, 40, 48, 56, 64 };

enum { WIDTHS = sizeof(widths) / sizeof(widths[0]) };

static void about(const char *what, unsigned int bits)
{
	static char subject[64];

	snprintf(subject, sizeof(subject), "%s, %u bits", what, bits);
	check_about(subject);
}

static void test_wrap(void)
{
	unsigned int i;

	for (i = 0; i < WIDTHS; i++) {
		uint64_t first = (1ULL << (widths[i] - 1)) * 2 - 30;
		struct stream stream = begin(widths[i], first);

		about("wrap", widths[i]);
		come_all(&stream, first + 1, first + 25);
		come_all(&stream, first + 28, first + 40); /* three are lost: just before the wrap */
		come(&stream, first + 42);                 /* one comes late */
		come(&stream, first + 41);
		come(&stream, first + 20);
		come(&stream, first + 26);
		come(&stream, first + 40);
		check(&stream, 0, 2, 3, 1, 0, 0);
		CHECK_EQUAL(stream.counters.gaps, 2);
		CHECK_EQUAL(stream.counters.longest_gap, 3);
	}
}

static void test_lost_when_out_of_the_window(void)
{
	unsigned int i;

	for (i = 0; i < WIDTHS; i++) {
		struct stream stream = begin(widths[i], 0);

		about("out of the window", widths[i]);
		come_all(&stream, 1, 10);
		come_all(&stream, 12, 12 + stream.kind.window - 2);
		check(&stream, 0, 2, 0, 0, 0, 0);
		come(&stream, 10 + stream.kind.window);
		check(&stream, 1, 1, 0, 0, 0, 0);
		come(&stream, 11 + stream.kind.window);
		check(&stream, 2, 0, 0, 0, 0, 0);
		CHECK_EQUAL(stream.counters.last_lost.count, 2);
		CHECK_EQUAL(stream.counters.last_lost.at / SECOND, BEGIN / SECOND);
	}
}

static void test_lost_after_a_second(void)
{
	struct stream stream = begin(16, 65530);

	check_about("after a second");
	come(&stream, 65532);
	stream.now += SECOND / 2;
	come(&stream, 65533);
	check(&stream, 0, 1, 0, 0, 0, 0);
	stream.now += SECOND / 2 + SECOND / 10;
	come(&stream, 65534);
	check(&stream, 1, 0, 0, 0, 0, 0);
	come(&stream, 65531); /* too late */
	check(&stream, 1, 0, 0, 1, 0, 0);
}

static void test_large_gaps(void)
{
	unsigned int i;

	for (i = 1; i < WIDTHS; i++) {
		struct stream stream = begin(widths[i], 7);

		about("large gaps", widths[i]);
		come(&stream, 8 + 2000); /* at once */
		check(&stream, 2000 - 511, 511, 0, 0, 0, 0);
		come(&stream, 2009 + 20000); /* only when the next one agrees */
		check(&stream, 2000 - 511, 511, 0, 0, 0, 0);
		come(&stream, 2010 + 20000);
		check(&stream, 22000, 0, 0, 0, 0, 0);
		CHECK_EQUAL(stream.counters.gaps, 2);
		CHECK_EQUAL(stream.counters.longest_gap, 20000);
	}
}

static void test_resets(void)
{
	unsigned int i;

	for (i = 1; i < WIDTHS; i++) {
		struct stream stream = begin(widths[i], 30000);

		about("resets", widths[i]);
		come_all(&stream, 30001, 30010);
		come_all(&stream, 0, 100);
		check(&stream, 0, 0, 0, 0, 0, 1);
		come(&stream, 100);
		come(&stream, 102);
		check(&stream, 0, 1, 0, 0, 0, 1);
	}
	for (i = 2; i < WIDTHS; i++) {
		struct stream stream = begin(widths[i], 0);

		about("resets ahead", widths[i]);
		come_all(&stream, 5000000, 5000010);
		check(&stream, 0, 0, 0, 0, 0, 1);
	}
}

static void test_strays(void)
{
	struct stream stream = begin(32, 5);

	check_about("strays");
	come(&stream, 1 << 30);
	come(&stream, 6);
	check(&stream, 0, 0, 0, 0, 1, 0);
	come(&stream, 1 << 30);
	come(&stream, 1 << 29);
	come(&stream, 1 << 29); /* twice the same agrees with nothing */
	come(&stream, 7);
	check(&stream, 0, 0, 0, 1, 3, 0);
}

/* Losses, repeats and short delays at random: never anything but what was done. */
static void test_random(void)
{
	uint64_t random = 11;
	int round;

	check_about("at random");
	for (round = 0; round < 400; round++) {
		unsigned int bits = widths[check_random(&random) % WIDTHS], held_for = 0;
		uint64_t number = (uint64_t)check_random(&random) << 32 | check_random(&random), held = 0;
		uint64_t lost = 0, late = 0, twice = 0;
		struct stream stream = begin(bits, number);
		int i;

		for (i = 0; i < 3000; i++) {
			uint32_t fault = check_random(&random) % 40;

			number++;
			if (held_for && --held_for == 0) {
				come(&stream, held);
				late++;
			}
			if (fault == 0) {
				lost++;
			} else if (fault == 1 && !held_for) {
				held = number;
				held_for = 2 + check_random(&random) % 20;
			} else {
				come(&stream, number);
				if (fault == 2) {
					come(&stream, number);
					twice++;
				}
			}
		}
		come(&stream, ++number); /* what was lost last shows */
		if (held_for)
			lost++;
		check(&stream, stream.counters.lost, lost - stream.counters.lost, stream.counters.reordered, twice, 0, 0);
		/* One whose successors were lost as well was not late. */
		CHECK(stream.counters.reordered <= late && stream.counters.reordered + 40 >= late);
	}
}

static void test_hostile(void)
{
	uint64_t random = 3;
	unsigned int i;
	int j;

	for (i = 0; i < WIDTHS; i++) {
		struct stream stream = begin(widths[i], 0);

		about("hostile", widths[i]);
		for (j = 0; j < 200000; j++) {
			uint64_t number = check_random(&random);

			stream.now += check_random(&random) % 3 ? (uint64_t)-1000 : check_random(&random);
			number = number << check_random(&random) % 40;
			sequence_note(&stream.sequence, &stream.kind,
				      (check_random(&random) % 2 ? stream.sequence.next + number % 1024 - 512 : number) &
					      stream.kind.mask,
				      stream.now, &stream.counters);
			CHECK(stream.sequence.missing < SEQUENCE_WINDOW);
			CHECK_EQUAL(stream.counters.missing, stream.sequence.missing);
		}
		sequence_give_up(&stream.sequence, &stream.counters);
		CHECK_EQUAL(stream.counters.missing, 0);
	}
}

int main(void)
{
	test_wrap();
	test_lost_when_out_of_the_window();
	test_lost_after_a_second();
	test_large_gaps();
	test_resets();
	test_strays();
	test_random();
	test_hostile();
	return check_result();
}
