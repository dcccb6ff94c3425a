/* backlog.c with a real io_uring and sockets: what is kept and for how long, what is sent and when, and the counters.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "backlog.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

enum { MS = 1000 * 1000, SLOT = 3, OUTPUT = 5, KEPT_MS = 500 };

static struct worker *worker;
static int receiver, sender;

/* The rule in one of its forms, from now on. */
static void put(int standby)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = 5000, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = 5000,
		.standby = (uint8_t)standby,
		.backlog = (uint64_t)KEPT_MS * MS,
	};
	struct rule_output output = { .socket = 0, .counters = OUTPUT };

	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, &output, 1, NULL, NULL, 0), 0);
}

static void begin(void)
{
	struct sockaddr_in where = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct worker_settings settings = { .channel = -1, .readiness = -1, .sockets = 1, .interface_count = 1 };
	int segment = memfd_create("segment", 0), room = 64 << 20, channel[2];
	socklen_t size = sizeof(where);

	receiver = socket(AF_INET, SOCK_DGRAM, 0);
	sender = socket(AF_INET, SOCK_DGRAM, 0);
	setsockopt(receiver, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	CHECK_EQUAL(bind(receiver, (struct sockaddr *)&where, sizeof(where)), 0);
	CHECK_EQUAL(getsockname(receiver, (struct sockaddr *)&where, &size), 0);
	CHECK_EQUAL(connect(sender, (struct sockaddr *)&where, size), 0);
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, channel), 0);
	settings.channel = settings.readiness = channel[0];
	worker = worker_new(&settings);
	CHECK_EQUAL(ftruncate(segment, sizeof(struct segment)), 0);
	CHECK_EQUAL(pwrite(segment, &(uint32_t){ MCRD_SEGMENT_VERSION }, 4, offsetof(struct segment, version)), 4);
	CHECK_EQUAL(worker_map_segment(worker, segment), 0);
	CHECK(worker_open_engine(worker, 0) >= 0);
	CHECK_EQUAL(worker_restrict_uring(worker), 0);
	CHECK_EQUAL(worker_enable_uring(worker), 0);
	CHECK_EQUAL(worker_set_socket(worker, 0, sender), 0);
	close(segment);
	close(channel[0]);
	close(channel[1]);
}

static void end(void)
{
	worker_free(worker);
	close(receiver);
	close(sender);
}

static const struct rule_counters *counters(void)
{
	return &worker->segment->rules[SLOT];
}

/* The rule takes a datagram with that number. */
static void keep(uint32_t number, uint32_t length, uint64_t time)
{
	static uint8_t payload[4096];
	struct packet packet = { .family = 4, .source = (const uint8_t *)"\x0a\x01\x00\x05" };

	memcpy(payload, &number, sizeof(number));
	CHECK_EQUAL(backlog_keep(worker, worker->rules.by_slot[SLOT], &packet, payload, length, time), 0);
}

/* How many have come, the first of them with this number and each with the next one. */
static uint32_t received(uint32_t first)
{
	uint8_t payload[4096];
	uint32_t count = 0, number;

	while (recv(receiver, payload, sizeof(payload), MSG_DONTWAIT) >= (ssize_t)sizeof(number)) {
		memcpy(&number, payload, sizeof(number));
		CHECK_EQUAL(number, first + count);
		count++;
	}
	return count;
}

static void test_what_is_too_old_is_not_sent(void)
{
	uint64_t now = pace_real_now(), i;

	check_about("too old");
	begin();
	put(1);
	for (i = 0; i < 100; i++)
		keep((uint32_t)i, 100, now - (1000 - 10 * i) * MS); /* from 1 s ago until now */
	CHECK_EQUAL(counters()->backlog + counters()->standby, 100);
	CHECK(counters()->backlog >= 49 && counters()->backlog <= 52);
	put(0);
	CHECK_EQUAL(backlog_send(worker, pace_real_now() + 1000ULL * MS), 0);
	CHECK_EQUAL(received((uint32_t)counters()->standby), counters()->traffic.packets);
	CHECK_EQUAL(counters()->backlog, 0);
	CHECK_EQUAL(counters()->traffic.packets + counters()->standby, 100);
	CHECK_EQUAL(worker->segment->outputs[OUTPUT].traffic.packets, counters()->traffic.packets);
	CHECK_EQUAL(worker->segment->interfaces[0].dropped[DROP_STANDBY], counters()->standby);
	CHECK_EQUAL(backlog_sleep(worker, 0), 0);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 0);
	end();
}

static void test_it_leaves_at_four_times_its_pace_and_in_order(void)
{
	uint64_t now = pace_real_now(), began;
	uint32_t i, so_far, next = 400;

	check_about("pace");
	begin();
	put(1);
	for (i = 0; i < next; i++)
		keep(i, 100, now - 400ULL * MS + (uint64_t)i * MS); /* one in each ms */
	put(0);
	began = pace_real_now();
	CHECK_EQUAL(backlog_sleep(worker, 0), MS);
	CHECK_EQUAL(backlog_send(worker, began), 0);
	so_far = received(0);
	CHECK(so_far < 50); /* tenfold: a few are due */
	CHECK_EQUAL(backlog_send(worker, began + 50ULL * MS), 0);
	i = received(so_far);
	CHECK(i > 100 && i < 300);
	so_far += i;
	/* What comes meanwhile comes after all that. */
	for (i = 0; i < 50; i++)
		keep(next++, 100, began + (uint64_t)(i + 1) * MS);
	/* To stand by again ends it; to take over again goes on, without what has become too old. */
	put(1);
	CHECK_EQUAL(backlog_send(worker, began + 1000ULL * MS), 0);
	CHECK_EQUAL(received(so_far), 0);
	CHECK_EQUAL(counters()->backlog, next - so_far);
	put(0);
	CHECK_EQUAL(backlog_send_all(worker), 0);
	CHECK_EQUAL(received(so_far + (uint32_t)counters()->standby), next - so_far - counters()->standby);
	CHECK_EQUAL(counters()->traffic.packets + counters()->standby, next);
	end();
}

static void test_a_full_memory(int takes_over)
{
	uint64_t now = pace_real_now();
	uint32_t i, all = 3 * (MCRD_BACKLOG_BYTES / WAITING_LEAST), came = 0;

	check_about(takes_over ? "full while it takes over" : "full");
	begin();
	put(1);
	keep(0, 100, now);
	if (takes_over)
		put(0);
	for (i = 1; i < all; i++) {
		keep(i, i % 7 == 0 ? 3000 : 100, now);
		if (takes_over && i % 1000 == 0)
			came += received(came);
	}
	if (takes_over) {
		CHECK_EQUAL(backlog_send_all(worker), 0);
		came += received(came);
		CHECK_EQUAL(came, all); /* before its time, but in order and all of it */
		CHECK_EQUAL(counters()->standby, 0);
	} else {
		CHECK(counters()->backlog > 10000 && counters()->backlog <= MCRD_BACKLOG_BYTES / WAITING_LEAST);
		CHECK_EQUAL(counters()->backlog + counters()->standby, all);
		CHECK_EQUAL(worker_remove_rule(worker, SLOT), 0);
		CHECK_EQUAL(counters()->standby, all);
		CHECK_EQUAL(counters()->backlog, 0);
	}
	end();
}

static void test_a_worker_before_this_one_had_some(void)
{
	check_about("a worker before");
	begin();
	worker->segment->rules[SLOT].backlog = 7;
	put(1);
	CHECK_EQUAL(counters()->backlog, 0);
	CHECK_EQUAL(counters()->standby, 7);
	end();
}

/* Behind a clock that was set back, what is kept is neither kept for ever nor sent late. */
static void test_a_clock_that_is_set_back(void)
{
	uint64_t now = pace_real_now(), hour = 3600ULL * 1000 * MS;
	uint32_t i;

	check_about("clock");
	begin();
	put(1);
	for (i = 0; i < 100; i++)
		keep(i, 100, now + hour);
	keep(100, 100, now);
	CHECK_EQUAL(counters()->standby, 100);
	put(0);
	/* It takes over, and then the clock is set. */
	keep(101, 100, now + 100ULL * MS);
	CHECK_EQUAL(backlog_send(worker, now - hour), 0);
	CHECK_EQUAL(backlog_send(worker, now - hour + 200ULL * MS), 0);
	CHECK_EQUAL(received(100), 2);
	CHECK_EQUAL(counters()->backlog, 0);
	end();
}

static void test_what_takes_over_is_sent_when_its_rule_goes(void)
{
	uint64_t now = pace_real_now();
	uint32_t i;

	check_about("removed while it takes over");
	begin();
	put(1);
	for (i = 0; i < 100; i++)
		keep(i, 100, now - 100ULL * MS + i * 1ULL * MS);
	put(0);
	put(0);
	CHECK_EQUAL(worker_remove_rule(worker, SLOT), 0);
	CHECK_EQUAL(received(0), 100);
	CHECK_EQUAL(counters()->standby, 0);
	CHECK_EQUAL(counters()->backlog, 0);
	end();
}

int main(void)
{
	test_a_clock_that_is_set_back();
	test_what_takes_over_is_sent_when_its_rule_goes();
	test_what_is_too_old_is_not_sent();
	test_it_leaves_at_four_times_its_pace_and_in_order();
	test_a_full_memory(0);
	test_a_full_memory(1);
	test_a_worker_before_this_one_had_some();
	return check_result();
}
