/* inspect.c, rtp.c, mpegts.c and moldudp.c: streams with faults that are known; flows beyond the bound; anything at all.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "inspect.h"

#include <string.h>

#include "check.h"
#include "rtp.h"

#define SECOND 1000000000ULL
#define BEGIN (1700000000 * SECOND)
#define MILLISECOND 1000000ULL

struct bench {
	struct inspect_counters counters;
	struct hash_light_seed seed;
	struct inspector *inspector;
	uint32_t used;
	uint64_t now;
	uint8_t source[16];
	uint16_t port;
};

static void begin(struct bench *bench, uint8_t format)
{
	struct inspect_settings settings = { .format = format, .offset = 2, .bytes = 4, .little = 1 };

	*bench = (struct bench){ .now = BEGIN, .source = { 10, 0, 0, 1 }, .port = 4000, .seed = { { 1, 2, 3, 5, 7, 11 } } };
	bench->inspector = inspector_new(&settings, &bench->counters, &bench->seed, &bench->used);
	if (!bench->inspector)
		abort();
}

static void end(struct bench *bench)
{
	inspector_free(bench->inspector);
	CHECK_EQUAL(bench->used, 0);
	CHECK_EQUAL(bench->counters.flows, 0);
	CHECK_EQUAL(bench->counters.missing, 0);
}

/* From memory of just that length, so that a sanitizer sees who reads beyond. */
static void give(struct bench *bench, const void *data, uint32_t length)
{
	static const uint8_t destination[16] = { 239, 1, 2, 3 };
	uint8_t *copy = check_allocate(length ? length : 1);
	struct packet packet = {
		.source = bench->source,
		.destination = destination,
		.payload = copy,
		.payload_length = length,
		.source_port = bench->port,
		.destination_port = 5000,
		.family = 4,
		.protocol = PROTOCOL_UDP,
	};

	memcpy(copy, data, length);
	inspect(bench->inspector, &packet, copy, length, bench->now);
	free(copy);
}

static void write_big(uint8_t *at, uint64_t number, int bytes)
{
	while (bytes-- > 0) {
		at[bytes] = (uint8_t)number;
		number >>= 8;
	}
}

static uint32_t make_rtp(uint8_t *data, uint8_t type, uint16_t sequence, uint32_t timestamp, uint32_t ssrc)
{
	data[0] = 0x80;
	data[1] = type;
	write_big(data + 2, sequence, 2);
	write_big(data + 4, timestamp, 4);
	write_big(data + 8, ssrc, 4);
	return 12;
}

static void give_rtp(struct bench *bench, uint16_t sequence, uint32_t ssrc)
{
	uint8_t data[200] = { 0 };

	bench->now += 10 * MILLISECOND;
	make_rtp(data, 33, sequence, (uint32_t)((bench->now - BEGIN) * 9 / 100000), ssrc);
	give(bench, data, sizeof(data));
}

static void test_rtp(void)
{
	struct bench bench;
	uint32_t i;

	check_about("rtp");
	begin(&bench, INSPECT_RTP);
	for (i = 65000; i < 66000; i++)
		if (i != 65100 && i != 65535)
			give_rtp(&bench, (uint16_t)i, 7);
	give_rtp(&bench, 65990 & 0xffff, 7);
	CHECK_EQUAL(bench.counters.lost, 2); /* a second after */
	CHECK_EQUAL(bench.counters.gaps, 2);
	CHECK_EQUAL(bench.counters.repeated, 1);
	CHECK_EQUAL(bench.counters.changes, 0);
	CHECK(bench.counters.jitter < MILLISECOND / 10);
	bench.now += 3 * SECOND;
	give_rtp(&bench, 1, 8); /* the sender began anew */
	give_rtp(&bench, 2, 8);
	CHECK_EQUAL(bench.counters.lost, 2);
	CHECK_EQUAL(bench.counters.changes, 1);
	CHECK_EQUAL(bench.counters.resets, 0);
	CHECK_EQUAL(bench.counters.longest_silence, 3 * SECOND + 10 * MILLISECOND);
	give(&bench, "\x80\xc8\0\6aaaabbbbccccdddd", 20); /* a sender report of RTCP */
	give(&bench, "\x40\x21\0\6aaaabbbbccccdddd", 20);
	give(&bench, "\x80\x21\0\6aaaabbb", 11);
	give(&bench, "\x8f\x21\0\6aaaabbbbcccc", 16); /* its list of sources is not there */
	CHECK_EQUAL(bench.counters.other, 4);
	CHECK_EQUAL(bench.counters.formats, 1 << INSPECT_RTP);
	end(&bench);
}

/* The number before the wrap is lost: what comes next shows it. */
static void test_loss_before_the_wrap(void)
{
	struct bench bench;

	check_about("loss before the wrap");
	begin(&bench, INSPECT_RTP);
	give_rtp(&bench, 65533, 7);
	give_rtp(&bench, 65534, 7);
	give_rtp(&bench, 0, 7);
	CHECK_EQUAL(bench.counters.missing, 1);
	give_rtp(&bench, 65535, 7);
	CHECK_EQUAL(bench.counters.reordered, 1);
	end(&bench);
}

/* By the clock of another CPU, or after a clock was set back: that is no silence. */
static void test_a_time_that_goes_back(void)
{
	struct bench bench;

	check_about("a time that goes back");
	begin(&bench, INSPECT_RTP);
	give_rtp(&bench, 1, 7);
	bench.now -= 20 * MILLISECOND;
	give_rtp(&bench, 2, 7);
	CHECK_EQUAL(bench.counters.longest_silence, 0);
	end(&bench);
}

/* The last byte says how many there are, with itself (RFC 3550, section 5.1). */
static void test_padding_of_rtp(void)
{
	uint8_t data[20];
	uint32_t header = make_rtp(data, 33, 1, 2, 3);
	struct rtp_packet packet;

	check_about("padding of rtp");
	data[0] |= 0x20;
	memcpy(data + header, "abcde\0\0\3", 8);
	CHECK(rtp_parse(data, sizeof(data), &packet));
	CHECK_EQUAL(packet.length, 5);
	CHECK(packet.payload == data + header);
	data[sizeof(data) - 1] = 8;
	CHECK(rtp_parse(data, sizeof(data), &packet));
	CHECK_EQUAL(packet.length, 0);
	data[sizeof(data) - 1] = 9;
	CHECK(!rtp_parse(data, sizeof(data), &packet));
}

static void test_several_sources_of_rtp(void)
{
	struct bench bench;
	uint32_t i;

	check_about("several SSRCs");
	begin(&bench, INSPECT_RTP);
	for (i = 0; i < 400; i++)
		if (i != 100)
			give_rtp(&bench, (uint16_t)(i / 4), i % 4);
	CHECK_EQUAL(bench.counters.lost, 1);
	CHECK_EQUAL(bench.counters.changes, 3);
	for (i = 0; i < 3; i++)
		give_rtp(&bench, (uint16_t)i, 99); /* no room before one has been silent */
	CHECK_EQUAL(bench.counters.not_inspected, 3);
	bench.now += 2 * SECOND;
	give_rtp(&bench, 0, 99);
	give_rtp(&bench, 2, 99);
	CHECK_EQUAL(bench.counters.not_inspected, 3);
	CHECK_EQUAL(bench.counters.missing, 1);
	end(&bench);
	CHECK_EQUAL(bench.counters.lost, 2);
}

/* Every second datagram comes 2 ms late: the difference alternates, and the mean of its size is 2 ms. */
static void test_jitter(void)
{
	uint8_t data[40] = { 0 };
	struct bench bench;
	uint32_t i;

	check_about("jitter");
	begin(&bench, INSPECT_RTP);
	for (i = 0; i < 1000; i++) {
		/* A dynamic type: the clock is told by what it does. */
		make_rtp(data, 96, (uint16_t)i, 4000000000U + i * 480, 1);
		bench.now = BEGIN + i * 10 * MILLISECOND + (i % 2) * 2 * MILLISECOND;
		give(&bench, data, sizeof(data));
		if (i == 99)
			CHECK_EQUAL(bench.counters.jitter, 0);
	}
	CHECK(bench.counters.jitter > 1990000 && bench.counters.jitter < 2010000);
	CHECK(bench.counters.jitter_most >= bench.counters.jitter);
	bench.port = 1; /* a second flow is better: the worst is shown, until it has come to an end */
	for (i = 0; i < 100; i++) {
		make_rtp(data, 33, (uint16_t)i, i * 900, 2);
		bench.now += 10 * MILLISECOND;
		give(&bench, data, sizeof(data));
		if (i == 50)
			CHECK(bench.counters.jitter > 1990000);
	}
	for (; i < 110; i++) {
		make_rtp(data, 33, (uint16_t)i, i * 900, 2);
		bench.now += 10 * MILLISECOND;
		give(&bench, data, sizeof(data));
	}
	CHECK_EQUAL(bench.counters.jitter, 0);
	end(&bench);
}

/* In the first second it goes by no rate that is known: then another second tells. */
static void test_a_clock_that_is_told_late(void)
{
	uint32_t timestamp = 0, i;
	uint8_t data[40] = { 0 };
	struct bench bench;

	check_about("a clock that is told late");
	begin(&bench, INSPECT_RTP);
	for (i = 0; i < 500; i++) {
		timestamp += i <= 100 ? 333 : 480;
		make_rtp(data, 96, (uint16_t)i, timestamp, 1);
		bench.now = BEGIN + i * 10 * MILLISECOND + (i > 210 && i % 2 ? 2 * MILLISECOND : 0);
		give(&bench, data, sizeof(data));
		if (i == 210)
			CHECK_EQUAL(bench.counters.jitter, 0);
	}
	CHECK(bench.counters.jitter > 1990000 && bench.counters.jitter < 2010000);
	end(&bench);
}

struct ts_stream {
	uint8_t data[7 * TS_PACKET];
	uint32_t count;
	uint8_t counters[TS_PIDS];
};

static uint8_t *add_ts(struct ts_stream *stream, uint16_t pid, int payload)
{
	uint8_t *at = stream->data + TS_PACKET * stream->count++;

	memset(at, 0xff, TS_PACKET);
	at[0] = 0x47;
	at[1] = (uint8_t)(pid >> 8);
	at[2] = (uint8_t)pid;
	stream->counters[pid] = (uint8_t)((stream->counters[pid] + (payload != 0)) & 15);
	at[3] = (uint8_t)((payload ? 0x10 : 0x20) | stream->counters[pid]);
	if (!payload)
		memset(at + 4, 0, TS_PACKET - 4);
	return at;
}

static void give_ts(struct bench *bench, struct ts_stream *stream, int come)
{
	bench->now += 10 * MILLISECOND;
	if (come)
		give(bench, stream->data, TS_PACKET * stream->count);
	stream->count = 0;
}

/* The last place is for all PIDs that found none. */
static void test_more_pids_than_places(void)
{
	enum { PIDS = MCRD_PID_PLACES + 4, AT_ONCE = 5 };
	struct ts_stream stream = { 0 };
	struct bench bench;
	uint32_t round, i;

	check_about("many PIDs");
	begin(&bench, INSPECT_MPEG_TS);
	for (round = 0; round < 4; round++)
		for (i = 0; i < PIDS; i++) {
			add_ts(&stream, (uint16_t)(300 + i), 1);
			if (i % AT_ONCE == AT_ONCE - 1)
				give_ts(&bench, &stream, round != 2);
		}
	CHECK_EQUAL(bench.counters.continuity, PIDS);
	for (i = 0; i < MCRD_PID_PLACES - 1; i++) {
		CHECK_EQUAL(bench.counters.pids[i].pid, 300 + i + 1);
		CHECK_EQUAL(bench.counters.pids[i].errors, 1);
	}
	CHECK_EQUAL(bench.counters.pids[i].pid, 0);
	CHECK_EQUAL(bench.counters.pids[i].errors, PIDS - i);
	end(&bench);
}

static void write_pcr(uint8_t *at, uint64_t pcr, uint8_t flags)
{
	at[3] |= 0x20;
	at[4] = 7;
	at[5] = 0x10 | flags;
	write_big(at + 6, pcr / 300 << 15 | 0x7e00 | pcr % 300, 6);
}

static void test_ts(void)
{
	struct ts_stream stream = { 0 };
	struct bench bench;
	uint8_t *at;
	uint32_t i;

	check_about("ts");
	begin(&bench, INSPECT_MPEG_TS);
	for (i = 0; i < 200; i++) {
		write_pcr(add_ts(&stream, 256, 1), (bench.now + 10 * MILLISECOND - BEGIN) * 27 / 1000, 0);
		add_ts(&stream, 257, 1);
		add_ts(&stream, 257, 0);
		at = add_ts(&stream, 8191, 1);
		at[3] = 0x17; /* null packets have no counter */
		at = add_ts(&stream, 258, 1);
		if (i == 20)
			at[1] |= 0x80;
		if (i == 40)
			at[0] = 0;
		if (i == 60) { /* twice is allowed, thrice is not */
			memcpy(at + TS_PACKET, at, TS_PACKET);
			memcpy(at + 2 * TS_PACKET, at, TS_PACKET);
			stream.count += 2;
		}
		if (i == 80) {
			stream.counters[258] = 3;
			at[3] = 0x33;
			at[4] = 1;
			at[5] = 0x80;
		}
		give_ts(&bench, &stream, i != 100);
	}
	CHECK_EQUAL(bench.counters.transport, 1);
	CHECK_EQUAL(bench.counters.sync, 1);
	CHECK_EQUAL(bench.counters.duplicates, 1);
	/* 256 once and 257 twice? No: what has no payload stands where its PID does. */
	CHECK_EQUAL(bench.counters.continuity, 1 + 1 + 1 + 3);
	CHECK_EQUAL(bench.counters.pids[0].pid, 258 + 1);
	CHECK_EQUAL(bench.counters.pids[0].errors, 1 + 1 + 1 + 1);
	CHECK_EQUAL(bench.counters.pids[1].pid, 256 + 1);
	CHECK_EQUAL(bench.counters.pids[1].errors, 1);
	CHECK_EQUAL(bench.counters.pids[2].errors, 1);
	CHECK_EQUAL(bench.counters.ts_packets, 200 * 5 + 2 - 5 - 1);
	CHECK_EQUAL(bench.counters.pcr_interval, 20 * MILLISECOND);
	CHECK(bench.counters.pcr_jitter < 1000);
	CHECK_EQUAL(bench.counters.pcr_jumps, 0);
	write_pcr(add_ts(&stream, 256, 1), 5, 0);
	give_ts(&bench, &stream, 1);
	CHECK_EQUAL(bench.counters.pcr_jumps, 1);
	write_pcr(add_ts(&stream, 256, 1), 500000000, 0x80);
	give_ts(&bench, &stream, 1);
	CHECK_EQUAL(bench.counters.pcr_jumps, 1);
	end(&bench);
}

/* The first clock of a stream has none before it; and each of its bits counts (ISO/IEC 13818-1, 2.4.3.5). */
static void test_ts_clocks(void)
{
	static const uint64_t ticks[] = { 1, 256, 299, 300, 600, 300 << 8, 26999999 };
	struct bench bench;
	uint32_t i;

	check_about("ts clocks");
	for (i = 0; i < sizeof(ticks) / sizeof(ticks[0]); i++) {
		struct ts_stream stream = { 0 };

		begin(&bench, INSPECT_MPEG_TS);
		write_pcr(add_ts(&stream, 256, 1), i % 2 ? 500000000 : 13500000, 0);
		give_ts(&bench, &stream, 1);
		CHECK_EQUAL(bench.counters.pcr_interval + bench.counters.pcr_jumps, 0);
		write_pcr(add_ts(&stream, 256, 1), (i % 2 ? 500000000 : 13500000) + ticks[i], 0);
		give_ts(&bench, &stream, 1);
		CHECK_EQUAL(bench.counters.pcr_interval, ticks[i] * 1000 / 27);
		/* It took 10 ms. The jitter is a sixteenth of the first difference (RFC 3550, A.8). */
		CHECK_EQUAL(bench.counters.pcr_jitter,
			    (uint64_t)llabs((long long)(ticks[i] * 1000 / 27) - (long long)(10 * MILLISECOND)) / 16);
		CHECK_EQUAL(bench.counters.pcr_jumps, 0);
		end(&bench);
	}
}

/* Of nothing that is known: each counts once. */
/* A message of nothing may be the last one of a packet (MoldUDP64, 1.00: its length is the two bytes before it). */
static void test_mold_with_an_empty_message(void)
{
	uint8_t data[20 + 4 + 2] = "SESSION001";
	struct bench bench;

	check_about("an empty message");
	begin(&bench, INSPECT_AUTO);
	write_big(data + 10, 1, 8);
	write_big(data + 18, 2, 2);
	memcpy(data + 20, "\0\2ab", 4);
	give(&bench, data, sizeof(data));
	CHECK_EQUAL(bench.counters.formats, 1 << INSPECT_MOLDUDP64);
	end(&bench);
	begin(&bench, INSPECT_AUTO);
	give(&bench, data, sizeof(data) - 1);
	CHECK_EQUAL(bench.counters.formats, 0);
	end(&bench);
	/* A session is of characters that can be printed, from the first on. */
	data[0] = 1;
	begin(&bench, INSPECT_AUTO);
	give(&bench, data, sizeof(data));
	CHECK_EQUAL(bench.counters.formats, 0);
	end(&bench);
}

static void test_other_formats(void)
{
	static const uint8_t data[] = "no stream of any format that is known";
	struct bench bench;
	uint32_t i;

	check_about("other formats");
	begin(&bench, INSPECT_AUTO);
	for (i = 1; i <= 5; i++) {
		give(&bench, data, sizeof(data) - i);
		CHECK_EQUAL(bench.counters.other, i);
	}
	end(&bench);
}

static void test_ts_over_rtp(void)
{
	struct ts_stream stream = { 0 };
	uint8_t data[12 + TS_PACKET];
	struct bench bench;
	uint32_t i;

	check_about("ts over rtp");
	for (i = 0; i < 2; i++) {
		uint32_t sequence;

		begin(&bench, i ? INSPECT_AUTO : INSPECT_MPEG_TS);
		for (sequence = 0; sequence < 700; sequence++) {
			make_rtp(data, 33, (uint16_t)sequence, sequence * 90, 3);
			add_ts(&stream, 100, 1);
			memcpy(data + 12, stream.data, TS_PACKET);
			stream.count = 0;
			bench.now += MILLISECOND;
			if (sequence != 50 && sequence != 51 && sequence != 698)
				give(&bench, data, sizeof(data));
		}
		CHECK_EQUAL(bench.counters.lost, 2);
		CHECK_EQUAL(bench.counters.missing, 1); /* until the end */
		CHECK_EQUAL(bench.counters.continuity, 2);
		CHECK_EQUAL(bench.counters.other, 0);
		CHECK_EQUAL(bench.counters.formats, 1 << INSPECT_RTP | 1 << INSPECT_MPEG_TS);
		end(&bench);
	}
}

static void give_mold(struct bench *bench, const char *session, uint64_t first, uint32_t messages)
{
	uint8_t data[20 + 40 * 4] = { 0 };
	uint32_t i, in = messages < 40 ? messages : 0;

	bench->now += MILLISECOND;
	memcpy(data, session, 10);
	write_big(data + 10, first, 8);
	write_big(data + 18, messages, 2);
	for (i = 0; i < in; i++)
		memcpy(data + 20 + 4 * i, "\0\2ab", 4);
	give(bench, data, 20 + 4 * in);
}

static void check_mold(const struct bench *bench, uint64_t lost, uint64_t missing, uint64_t reordered, uint64_t repeated,
		       uint64_t stray, uint64_t changes)
{
	CHECK_EQUAL(bench->counters.lost, lost);
	CHECK_EQUAL(bench->counters.missing, missing);
	CHECK_EQUAL(bench->counters.reordered, reordered);
	CHECK_EQUAL(bench->counters.repeated, repeated);
	CHECK_EQUAL(bench->counters.stray, stray);
	CHECK_EQUAL(bench->counters.changes, changes);
}

/* A gap that was filled is no loss, and does not hide when the last one was. */
static void test_mold_keeps_the_last_loss(void)
{
	struct bench bench;
	uint64_t when;

	check_about("the last loss");
	begin(&bench, INSPECT_MOLDUDP64);
	give_mold(&bench, "FIRST00001", 1, 1);
	give_mold(&bench, "FIRST00001", 5, 1); /* three are missing */
	bench.now += 2 * SECOND;
	give_mold(&bench, "FIRST00001", 6, 1);
	check_mold(&bench, 3, 0, 0, 0, 0, 0);
	CHECK_EQUAL(bench.counters.last_lost.count, 3);
	when = bench.counters.last_lost.at;
	bench.now += 2 * SECOND;
	give_mold(&bench, "FIRST00001", 8, 1);
	give_mold(&bench, "FIRST00001", 7, 1);
	check_mold(&bench, 3, 0, 1, 0, 0, 0);
	give_mold(&bench, "FIRST00001", 9, 0xffff);
	give_mold(&bench, "SECOND0001", 1, 1);
	bench.now += 2 * SECOND;
	give_mold(&bench, "SECOND0001", 2, 1);
	check_mold(&bench, 3, 0, 1, 0, 0, 1);
	CHECK_EQUAL(bench.counters.last_lost.count, 3);
	CHECK_EQUAL(bench.counters.last_lost.at, when);
	end(&bench);
}

static void test_mold(void)
{
	struct bench bench;

	check_about("moldudp64");
	begin(&bench, INSPECT_MOLDUDP64);
	give_mold(&bench, "FIRST00001", 1000, 10);
	give_mold(&bench, "FIRST00001", 1010, 0); /* a heartbeat */
	give_mold(&bench, "FIRST00001", 1010, 1);
	give_mold(&bench, "FIRST00001", 1030, 10); /* 19 are missing */
	check_mold(&bench, 0, 19, 0, 0, 0, 0);
	give_mold(&bench, "FIRST00001", 1015, 5); /* five come in the middle */
	check_mold(&bench, 0, 14, 1, 0, 0, 0);
	give_mold(&bench, "FIRST00001", 1015, 5);
	give_mold(&bench, "FIRST00001", 1030, 10);
	check_mold(&bench, 0, 14, 1, 2, 0, 0);
	give_mold(&bench, "FIRST00001", 1043, 0); /* three that no packet came after */
	check_mold(&bench, 0, 17, 1, 2, 0, 0);
	CHECK_EQUAL(bench.counters.gaps, 2);
	bench.now += 2 * SECOND;
	give_mold(&bench, "FIRST00001", 1043, 0);
	check_mold(&bench, 17, 0, 1, 2, 0, 0);
	give_mold(&bench, "FIRST00001", 1043, 0xffff); /* the end of the session */
	give_mold(&bench, "SECOND0001", 4, 2); /* three of the new one are missing */
	check_mold(&bench, 17, 3, 1, 2, 0, 1);
	give_mold(&bench, "FIRST00001", 1043, 0xffff); /* it is said several times */
	give_mold(&bench, "SECOND0001", 1, 3);
	check_mold(&bench, 17, 0, 2, 2, 1, 1);
	give_mold(&bench, "SECOND0001", 5000000, 3); /* far away */
	give_mold(&bench, "SECOND0001", 6, 3);
	check_mold(&bench, 17, 0, 2, 2, 2, 1);
	give_mold(&bench, "SECOND0001", 200009, 3);
	give_mold(&bench, "SECOND0001", 200012, 3);
	check_mold(&bench, 200017, 0, 2, 2, 2, 1);
	CHECK_EQUAL(bench.counters.longest_gap, 200000);
	give_mold(&bench, "FIRST00001", 1050, 1); /* over to the first again */
	give_mold(&bench, "FIRST00001", 1051, 1);
	give_mold(&bench, "FIRST00001", 1052, 1);
	give_mold(&bench, "FIRST00001", 1053, 1);
	check_mold(&bench, 200017, 0, 2, 2, 4, 2);
	give_mold(&bench, "FIRST00001", 1055, 41); /* no such number of messages is there */
	CHECK_EQUAL(bench.counters.other, 1);
	end(&bench);
}

/* Of more gaps than are kept in mind, the oldest are lost; all others may be filled. */
static void test_mold_with_so_many_gaps(void)
{
	enum { ALL = MOLD_GAPS + 3 };
	struct bench bench;
	uint64_t i;

	check_about("so many gaps");
	begin(&bench, INSPECT_MOLDUDP64);
	for (i = 0; i <= ALL; i++)
		give_mold(&bench, "FIRST00001", 1 + 2 * i, 1); /* each even number is missing */
	check_mold(&bench, ALL - MOLD_GAPS, MOLD_GAPS, 0, 0, 0, 0);
	for (i = 1; i <= ALL - MOLD_GAPS; i++)
		give_mold(&bench, "FIRST00001", 2 * i, 1);
	check_mold(&bench, ALL - MOLD_GAPS, MOLD_GAPS, 0, ALL - MOLD_GAPS, 0, 0);
	for (; i <= ALL; i++)
		give_mold(&bench, "FIRST00001", 2 * i, 1);
	check_mold(&bench, ALL - MOLD_GAPS, 0, MOLD_GAPS, ALL - MOLD_GAPS, 0, 0);
	end(&bench);
}

static void test_sequence(void)
{
	struct bench bench;
	uint8_t data[8] = { 0 };
	uint32_t i;

	check_about("a number wherever it stands");
	begin(&bench, INSPECT_SEQUENCE);
	for (i = 0xfffffff0; i != 1000; i++) {
		data[2] = (uint8_t)i;
		data[3] = (uint8_t)(i >> 8);
		data[4] = (uint8_t)(i >> 16);
		data[5] = (uint8_t)(i >> 24);
		if (i != 0xfffffffb)
			give(&bench, data, i % 3 ? 6U : (uint32_t)sizeof(data)); /* something may follow it */
	}
	give(&bench, data, 5);
	CHECK_EQUAL(bench.counters.lost, 1);
	CHECK_EQUAL(bench.counters.other, 1);
	CHECK_EQUAL(bench.counters.inspected, 1016);
	end(&bench);
}

static void test_auto(void)
{
	struct ts_stream stream = { 0 };
	struct bench bench;
	uint32_t i;

	check_about("auto");
	begin(&bench, INSPECT_AUTO);
	for (i = 0; i < 10; i++)
		give(&bench, "\x80 no format is this", 20);
	CHECK_EQUAL(bench.counters.formats, 0);
	CHECK_EQUAL(bench.counters.inspected, 10);
	bench.port = 1;
	for (i = 0; i < 10; i++)
		if (i != 1)
			give_rtp(&bench, (uint16_t)i, 9);
	CHECK_EQUAL(bench.counters.formats, 1 << INSPECT_RTP);
	CHECK_EQUAL(bench.counters.missing, 1);
	bench.port = 2;
	give_mold(&bench, "SESSION  1", 1, 3);
	give_mold(&bench, "SESSION  1", 5, 3);
	CHECK_EQUAL(bench.counters.missing, 2);
	bench.port = 3;
	for (i = 0; i < 10; i++) {
		add_ts(&stream, 17, 1);
		give_ts(&bench, &stream, i != 3);
	}
	CHECK_EQUAL(bench.counters.continuity, 1);
	for (i = 0; i < 2 * INSPECT_OTHERS; i++) /* the sender took to something else */
		give_rtp(&bench, (uint16_t)(i + i / 150), 10);
	CHECK_EQUAL(bench.counters.missing, 3);
	CHECK_EQUAL(bench.counters.flows, 4);
	bench.port = 1; /* so did that of RTP: what is missing there is lost */
	for (i = 0; i < INSPECT_OTHERS; i++)
		give(&bench, "no format is this", 17);
	CHECK_EQUAL(bench.counters.missing, 2);
	CHECK_EQUAL(bench.counters.lost, 1);
	end(&bench);
}

/* Two in a row tell RTP, whatever their numbers are. */
static void test_auto_finds_rtp(void)
{
	static const uint16_t firsts[] = { 1, 0x7fff, 40000, 65534, 65535 };
	struct bench bench;
	uint32_t i;

	check_about("auto finds rtp");
	for (i = 0; i < sizeof(firsts) / sizeof(firsts[0]); i++) {
		begin(&bench, INSPECT_AUTO);
		give_rtp(&bench, firsts[i], 9);
		CHECK_EQUAL(bench.counters.formats, 0);
		give_rtp(&bench, (uint16_t)(firsts[i] + 1), 9);
		CHECK_EQUAL(bench.counters.formats, 1 << INSPECT_RTP);
		CHECK_EQUAL(bench.counters.other, 0);
		end(&bench);
	}
}

static void test_flows(void)
{
	struct bench bench;
	uint32_t i, j;

	check_about("flows");
	begin(&bench, INSPECT_RTP);
	for (j = 0; j < 20; j++)
		for (i = 0; i < INSPECT_FLOWS + 6; i++) {
			uint16_t number = (uint16_t)(j + i * 1000 + (i == 5 && j > 10));

			bench.source[3] = (uint8_t)i;
			give_rtp(&bench, number, i);
			bench.now -= 10 * MILLISECOND;
		}
	CHECK_EQUAL(bench.counters.flows, INSPECT_FLOWS);
	CHECK_EQUAL(bench.used, INSPECT_FLOWS);
	CHECK_EQUAL(bench.counters.missing, 1);
	CHECK_EQUAL(bench.counters.changes, 0);
	CHECK_EQUAL(bench.counters.not_inspected, 6 * 20);
	CHECK_EQUAL(bench.counters.inspected, INSPECT_FLOWS * 20);
	/* After ten seconds, those that go on stay. */
	bench.now += 8 * SECOND;
	bench.source[3] = 3;
	give_rtp(&bench, 3020, 3);
	bench.now += 4 * SECOND;
	bench.source[3] = 200;
	give_rtp(&bench, 1, 1);
	CHECK_EQUAL(bench.counters.flows, 2);
	CHECK_EQUAL(bench.counters.lost, 1);
	CHECK_EQUAL(bench.counters.missing, 0);
	bench.used += INSPECT_FLOWS_OF_ALL;
	bench.source[3] = 201;
	give_rtp(&bench, 1, 1);
	CHECK_EQUAL(bench.counters.not_inspected, 6 * 20 + 1);
	bench.used -= INSPECT_FLOWS_OF_ALL;
	end(&bench);
}

/* A search costs the same whether it finds any, so there is one in a second. */
static void test_when_room_is_looked_for(void)
{
	struct bench bench;
	uint32_t i;

	check_about("room");
	begin(&bench, INSPECT_RTP);
	for (i = 0; i < INSPECT_FLOWS; i++) {
		bench.port = (uint16_t)(1 + i);
		give_rtp(&bench, 1, 1);
	}
	bench.now = BEGIN + INSPECT_IDLE_NS;
	bench.port = 1000;
	give_rtp(&bench, 1, 1); /* the first has been silent just so long */
	CHECK_EQUAL(bench.counters.not_inspected, 1);
	bench.now += SECOND - 20 * MILLISECOND;
	give_rtp(&bench, 2, 1); /* 10 ms less than a second later */
	CHECK_EQUAL(bench.counters.not_inspected, 2);
	give_rtp(&bench, 3, 1);
	CHECK_EQUAL(bench.counters.not_inspected, 2);
	CHECK_EQUAL(bench.counters.flows, 1);
	end(&bench);
}

/* A worker that died waited for something. */
static void test_begin_again(void)
{
	struct bench bench;

	check_about("another worker");
	begin(&bench, INSPECT_RTP);
	bench.counters.missing = 5;
	bench.counters.flows = 3;
	inspector_free(bench.inspector);
	bench.inspector = inspector_new(&(struct inspect_settings){ .format = INSPECT_RTP }, &bench.counters, &bench.seed,
					&bench.used);
	CHECK_EQUAL(bench.counters.lost, 5);
	inspector_free(bench.inspector);
	bench.counters.missing = INSPECT_FLOWS << 21; /* as much as all flows of a rule can miss */
	bench.inspector = inspector_new(&(struct inspect_settings){ .format = INSPECT_RTP }, &bench.counters, &bench.seed,
					&bench.used);
	CHECK_EQUAL(bench.counters.lost, 5 + (INSPECT_FLOWS << 21));
	inspector_free(bench.inspector);
	bench.counters.lost = 5;
	bench.counters.missing = -5ULL; /* of a slot that was zeroed before its rule had gone */
	bench.counters.flows = -1ULL;
	bench.inspector = inspector_new(&(struct inspect_settings){ .format = INSPECT_RTP }, &bench.counters, &bench.seed,
					&bench.used);
	CHECK_EQUAL(bench.counters.lost, 5);
	end(&bench);
}

/* Anything at all, of any length, at any time. */
static void test_anything(void)
{
	static const uint8_t formats[] = { INSPECT_RTP, INSPECT_MPEG_TS, INSPECT_MOLDUDP64, INSPECT_SEQUENCE, INSPECT_AUTO };
	uint64_t random = 17;
	uint32_t which, i, j;

	check_about("anything");
	for (which = 0; which < sizeof(formats); which++) {
		struct bench bench;

		begin(&bench, formats[which]);
		for (i = 0; i < 60000; i++) {
			uint8_t data[TS_PACKET * 2 + 20];
			uint32_t kind = check_random(&random) % 5;
			uint32_t length = check_random(&random) % 4 ? check_random(&random) % (sizeof(data) + 1) : 188;

			for (j = 0; j < sizeof(data); j++)
				data[j] = (uint8_t)check_random(&random);
			if (kind == 0)
				data[0] = 0x80 | (data[0] & 0x3f);
			else if (kind == 1)
				data[0] = data[188] = 0x47;
			else if (kind == 2)
				memcpy(data, check_random(&random) % 2 ? "SESSION001\0\0\0\0\0\0\0" : "SESSION002\0\0\0\0\0\0\0", 17);
			if (kind < 3 && check_random(&random) % 2) {
				data[1] &= 0x21;
				data[18] = 0;
				memcpy(data + 8, "same", 4);
			}
			bench.now += check_random(&random) % 5 ? check_random(&random) : -(uint64_t)check_random(&random) * 3;
			bench.port = (uint16_t)(check_random(&random) % 100);
			give(&bench, data, length);
			CHECK(bench.counters.missing < 1ULL << 40);
		}
		CHECK_EQUAL(bench.counters.inspected + bench.counters.not_inspected >= 60000, 1);
		end(&bench);
	}
}

int main(void)
{
	test_rtp();
	test_loss_before_the_wrap();
	test_a_time_that_goes_back();
	test_padding_of_rtp();
	test_several_sources_of_rtp();
	test_jitter();
	test_a_clock_that_is_told_late();
	test_ts();
	test_more_pids_than_places();
	test_ts_clocks();
	test_other_formats();
	test_mold_keeps_the_last_loss();
	test_mold_with_an_empty_message();
	test_ts_over_rtp();
	test_mold();
	test_mold_with_so_many_gaps();
	test_sequence();
	test_auto();
	test_auto_finds_rtp();
	test_flows();
	test_when_room_is_looked_for();
	test_begin_again();
	test_anything();
	return check_result();
}
