/* backlog.c with a real io_uring and sockets: what is kept and for how long, what is sent and when, and the counters.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "backlog.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "late.h"

enum { MS = 1000 * 1000, SLOT = 3, OUTPUT = 5, KEPT_MS = 500, EAR = 1 };

static struct worker *worker;
static int receiver, sender, ear, other; /* `other` is the other host, which the ear hears */

static int hears; /* whether rules have the ear */
static int by_member; /* whether their output goes so */
static uint8_t merged; /* which stream they are legs of; 0: of none */

/* A rule in one of its forms, from now on. */
static void put_leg(uint32_t slot, int standby)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = 5000, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = 5000,
		.standby = (uint8_t)standby,
		.backlog = (uint64_t)KEPT_MS * MS,
		.overhears = hears ? EAR + 1 : 0,
	};
	struct rule_output output = { .socket = by_member ? MCRD_BY_MEMBER : 0, .counters = OUTPUT };
	uint32_t same = 0, stay = by_member && worker->rules.by_slot[slot] ? 1 : 0;

	if (merged)
		match.merge = (struct merge_settings){ .stream = merged, .by = MERGE_CONTENT, .leg = (uint8_t)(slot - SLOT) };
	match.first.port = match.last_port = (uint16_t)(5000 + slot - SLOT);
	CHECK_EQUAL(worker_put_rule(worker, slot, &match, NULL, &output, 1, NULL, &same, stay), 0);
}

static void put(int standby)
{
	put_leg(SLOT, standby);
}

static void begin(void)
{
	struct sockaddr_in where = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct worker_settings settings = { .channel = -1, .readiness = -1, .sockets = 2, .interface_count = 1 };
	int segment = memfd_create("segment", 0), guard = memfd_create("guard", 0), room = 64 << 20, channel[2];
	uint64_t seed[MCRD_GUARD_SEEDS] = { 1, 2, 3, 4, 5, 6, 7, 8 };
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
	CHECK_EQUAL(pwrite(segment, &(uint64_t){ 7 }, 8, offsetof(struct segment, first_in_hand)), 8);
	CHECK_EQUAL(worker_map_segment(worker, segment), 0);
	CHECK_EQUAL(ftruncate(guard, sizeof(struct guard_memory)), 0);
	CHECK_EQUAL(pwrite(guard, seed, sizeof(seed), offsetof(struct guard_memory, seed)), sizeof(seed));
	CHECK_EQUAL(worker_map_guard(worker, guard), 0);
	CHECK(worker_open_engine(worker, 0) >= 0);
	CHECK(worker_make_places(worker) == 0);
	CHECK_EQUAL(worker_restrict_uring(worker), 0);
	CHECK_EQUAL(worker_enable_uring(worker), 0);
	CHECK_EQUAL(worker_set_socket(worker, 0, sender), 0);
	where = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	ear = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	other = socket(AF_INET, SOCK_DGRAM, 0);
	setsockopt(ear, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	CHECK_EQUAL(bind(ear, (struct sockaddr *)&where, sizeof(where)), 0);
	CHECK_EQUAL(getsockname(ear, (struct sockaddr *)&where, &size), 0);
	CHECK_EQUAL(connect(other, (struct sockaddr *)&where, size), 0);
	CHECK_EQUAL(worker_set_socket(worker, EAR, ear), 0);
	hears = by_member = merged = 0;
	worker->rules.now = pace_now();
	close(segment);
	close(guard);
	close(channel[0]);
	close(channel[1]);
}

static void end(void)
{
	worker_free(worker);
	close(receiver);
	close(sender);
	close(ear);
	close(other);
}

static const struct rule_counters *counters(void)
{
	return &worker->segment->rules[SLOT];
}

/* A rule takes a datagram with that number. */
static void keep_leg(uint32_t slot, uint32_t number, uint32_t length, uint64_t time)
{
	static uint8_t payload[4096];
	struct packet packet = { .family = 4, .source = (const uint8_t *)"\x0a\x01\x00\x05",
				 .destination = (const uint8_t *)"\xef\x01\x01\x01", .destination_port = 5000 };

	memcpy(payload, &number, sizeof(number));
	CHECK_EQUAL(backlog_keep(worker, worker->rules.by_slot[slot], &packet, payload, length, time), 0);
}

static void keep(uint32_t number, uint32_t length, uint64_t time)
{
	keep_leg(SLOT, number, length, time);
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
	/* One that has kept nothing, and hears nobody, relays at once. */
	put(1);
	put(0);
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
	CHECK_EQUAL(worker->segment->first_in_hand, 0);
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

/* The other host sends a datagram with that number. */
static void send_elsewhere(uint32_t number, uint32_t length)
{
	static uint8_t payload[4096];

	memcpy(payload, &number, sizeof(number));
	CHECK_EQUAL(send(other, payload, length, 0), length);
}

/* Hears all that it has sent, as the loop does. */
static void hear(void)
{
	const struct engine_calls *calls = worker->engine.calls;
	struct completion done;
	char byte;

	while (recv(ear, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0) {
		CHECK_EQUAL(calls->wait(&worker->engine, MS), 0);
		while (calls->look(&worker->engine, &done) > 0)
			worker_complete(worker, &done);
		CHECK_EQUAL(answers_hear(&worker->answers, backlog_overhear, worker_complete, worker), 0);
	}
}

static void test_what_another_host_has_sent_is_not_sent_again(void)
{
	uint64_t now, told;
	uint32_t i;

	check_about("heard");
	begin();
	hears = 1;
	put(1);
	now = pace_real_now();
	send_elsewhere(0, 100); /* before it comes here */
	hear();
	for (i = 0; i < 100; i++)
		keep(i, 100, now + i);
	for (i = 1; i < 60; i++)
		send_elsewhere(i, 100);
	send_elsewhere(99, 100); /* others before it are kept */
	send_elsewhere(99, 100); /* this one is none of what is kept */
	send_elsewhere(80, 99); /* another content */
	hear();
	CHECK_EQUAL(counters()->overheard, 61);
	CHECK_EQUAL(counters()->standby, 61);
	CHECK_EQUAL(counters()->backlog, 39);
	put(0);
	told = pace_real_now();
	CHECK_EQUAL(backlog_send(worker, told), 0);
	CHECK_EQUAL(received(60), 0); /* it may still speak */
	send_elsewhere(60, 100);
	hear();
	CHECK_EQUAL(backlog_send(worker, told + 10ULL * 1000 * MS), 0);
	CHECK_EQUAL(backlog_send(worker, told + 20ULL * 1000 * MS), 0);
	CHECK_EQUAL(received(61), 38);
	CHECK_EQUAL(counters()->overheard, 62);
	CHECK_EQUAL(counters()->traffic.packets, 38);
	CHECK_EQUAL(counters()->backlog, 0);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 0);
	end();
}

/* At the place of another rule. */
static void test_what_is_heard_elsewhere(void)
{
	const uint8_t payload[100] = { 7 };

	check_about("heard elsewhere");
	begin();
	hears = 1;
	put(1);
	backlog_overhear(worker, EAR + 1, SLOT, payload, sizeof(payload));
	backlog_overhear(worker, EAR - 1, SLOT, payload, sizeof(payload));
	keep(7, sizeof(payload), pace_real_now());
	CHECK_EQUAL(counters()->backlog, 1);
	backlog_overhear(worker, EAR + 1, SLOT, payload, sizeof(payload));
	backlog_overhear(worker, EAR - 1, SLOT, payload, sizeof(payload));
	CHECK_EQUAL(counters()->backlog, 1);
	CHECK_EQUAL(counters()->overheard, 0);
	backlog_overhear(worker, EAR, SLOT, payload, sizeof(payload));
	CHECK_EQUAL(counters()->overheard, 1);
	end();
}

static void test_the_memory_is_made_once(void)
{
	const struct rule_match none = { .bits = 32 }, some = { .bits = 32, .backlog = MS };
	const struct backlog *made;

	check_about("memory");
	begin();
	CHECK_EQUAL(backlog_prepare(worker, &none), 0);
	CHECK(!worker->backlog);
	CHECK_EQUAL(backlog_prepare(worker, &some), 0);
	made = worker->backlog;
	CHECK(made != NULL);
	CHECK_EQUAL(backlog_prepare(worker, &some), 0);
	CHECK(worker->backlog == made);
	end();
}

/* Each that is heard stands for one of those that say the same. */
static void test_the_same_content_many_times(void)
{
	uint64_t now;
	uint32_t i;

	check_about("the same");
	begin();
	hears = 1;
	put(1);
	now = pace_real_now();
	for (i = 0; i < 1000; i++)
		keep(7, 100, now);
	for (i = 0; i < 998; i++)
		send_elsewhere(7, 100);
	hear();
	CHECK_EQUAL(counters()->overheard, 998);
	CHECK_EQUAL(counters()->backlog, 2);
	CHECK_EQUAL(worker_remove_rule(worker, SLOT), 0);
	CHECK_EQUAL(counters()->standby, 1000);
	end();
}

/* It does so for as long as it keeps anything. */
static void test_it_waits_for_a_host_that_goes_on_no_longer_than_it_keeps(void)
{
	uint64_t now, told;
	uint32_t i;

	check_about("goes on");
	begin();
	hears = 1;
	put(1);
	keep(100, 100, pace_real_now() - 100ULL * MS); /* it waited in the ring before anything was heard */
	CHECK_EQUAL(counters()->backlog, 0);
	CHECK_EQUAL(counters()->standby, 1);
	put(0);
	now = pace_real_now();
	told = pace_real_now();
	for (i = 0; i < 100; i++)
		keep(i, 100, now);
	for (i = 0; i < 50; i++)
		send_elsewhere(i, 100);
	hear();
	CHECK_EQUAL(backlog_send(worker, told + 1ULL * MS), 0);
	CHECK_EQUAL(received(50), 0);
	CHECK_EQUAL(backlog_sleep(worker, 0), MS);
	CHECK_EQUAL(backlog_send(worker, told + (KEPT_MS + 10000ULL) * MS), 0);
	CHECK_EQUAL(backlog_send(worker, told + (KEPT_MS + 20000ULL) * MS), 0);
	CHECK_EQUAL(received(50), 50);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 0);
	/* A rule that never stood by waits for nobody. */
	CHECK_EQUAL(worker_remove_rule(worker, SLOT), 0);
	put(0);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 0);
	end();
}

/* The socket for it may go while the rule waits: then nobody is waited for. */
static void test_it_may_hear_no_more_while_it_waits(void)
{
	uint64_t now;
	uint32_t i;

	check_about("deaf");
	begin();
	hears = 1;
	put(1);
	now = pace_real_now();
	for (i = 0; i < 10; i++)
		keep(i, 100, now);
	put(0);
	CHECK_EQUAL(backlog_send(worker, pace_real_now()), 0);
	CHECK_EQUAL(received(0), 0);
	hears = 0;
	put(0);
	keep(10, 100, now);
	CHECK_EQUAL(backlog_send(worker, pace_real_now()), 0);
	CHECK_EQUAL(received(0), 11);
	CHECK_EQUAL(counters()->backlog, 0);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 0);
	end();
}

/* Whether the other host is silent is known only when something comes, however late that is. */
static void test_a_stream_with_gaps_while_both_are_told_to_send(void)
{
	uint64_t now, silence = BACKLOG_SILENCE_NS;

	check_about("gaps");
	begin();
	hears = 1;
	put(1);
	now = pace_real_now();
	put(0);
	CHECK_EQUAL(backlog_send(worker, now + 2 * silence), 0);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 1);
	keep(0, 100, now + 2 * silence);
	CHECK_EQUAL(backlog_send(worker, now + 2 * silence + MS), 0);
	send_elsewhere(0, 100); /* and the other one sends it */
	hear();
	CHECK_EQUAL(counters()->overheard, 1);
	CHECK_EQUAL(backlog_send(worker, now + (KEPT_MS - 50ULL) * MS), 0);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 1);
	/* This one it does not send. */
	CHECK_EQUAL(worker_remove_rule(worker, SLOT), 0);
	put(1);
	now = pace_real_now();
	put(0);
	keep(1, 100, now + MS);
	CHECK_EQUAL(backlog_send(worker, now + silence), 0);
	CHECK_EQUAL(received(1), 0);
	CHECK_EQUAL(backlog_send(worker, now + silence + 2ULL * MS), 0);
	CHECK_EQUAL(received(1), 1);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 0);
	end();
}

static void test_a_clock_that_is_set_back_while_it_hears(void)
{
	uint64_t now;

	check_about("clock, heard");
	begin();
	hears = 1;
	put(1);
	now = pace_real_now();
	keep(0, 100, now - 5000ULL * MS); /* it waited in the ring */
	CHECK_EQUAL(counters()->backlog, 0);
	CHECK_EQUAL(counters()->standby, 1);
	keep(1, 100, now);
	send_elsewhere(1, 100);
	hear();
	keep(2, 100, now - 5000ULL * MS);
	CHECK_EQUAL(counters()->overheard, 1);
	CHECK_EQUAL(counters()->backlog, 1);
	CHECK_EQUAL(counters()->standby, 2);
	end();
}

/* A member has its socket before it is to send; one that has none yet keeps what comes, in order. */
static void test_members(int prepared)
{
	struct member_key key;
	uint32_t socket = 0, i;
	uint64_t now;

	check_about(prepared ? "members" : "members that are late");
	begin();
	by_member = 1;
	put(1);
	now = pace_real_now();
	for (i = 0; i < 100; i++)
		keep(i, 100, now - 100ULL * MS + i * 1ULL * MS);
	CHECK(worker_next_wanted(worker, &key));
	CHECK_EQUAL(key.destination.port, 5000);
	CHECK(memcmp(key.destination.address, (const uint8_t[]){ 239, 1, 1, 1 }, 4) == 0);
	CHECK_EQUAL(worker_next_wanted(worker, &key), 0);
	if (prepared)
		CHECK_EQUAL(worker_put_member(worker, &key, 0, &socket, 1), 0);
	CHECK_EQUAL(counters()->backlog, 100);
	put(0);
	CHECK_EQUAL(backlog_send(worker, now + 1000ULL * MS), 0);
	CHECK_EQUAL(counters()->backlog, 0);
	CHECK_EQUAL(counters()->traffic.packets, 100);
	CHECK_EQUAL(received(0), prepared ? 100 : 0);
	if (!prepared) {
		CHECK_EQUAL(worker->segment->outputs[OUTPUT].waiting, 100);
		CHECK_EQUAL(worker_put_member(worker, &key, 0, &socket, 1), 0);
		CHECK_EQUAL(late_send(worker, worker_complete), 0);
		CHECK_EQUAL(received(0), 100);
	}
	CHECK_EQUAL(worker->segment->outputs[OUTPUT].traffic.packets, 100);
	CHECK_EQUAL(worker->segment->outputs[OUTPUT].waiting, 0);
	end();
}

/* Outputs choose by the source of what was kept. */
static void test_sources(void)
{
	static const struct source_run runs[] = { { { 10, 1, 0, 5 }, { 10, 1, 0, 5 } }, { { 10, 1, 0, 6 }, { 10, 1, 0, 9 } } };
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = 5000, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = 5000,
		.backlog = (uint64_t)KEPT_MS * MS,
	};
	const struct rule_output outputs[] = {
		{ .socket = 0, .counters = OUTPUT, .run_count = 1 },
		{ .socket = 0, .counters = OUTPUT + 1, .run_count = 1 },
	};

	check_about("sources");
	begin();
	match.standby = 1;
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, outputs, 2, runs, NULL, 0), 0);
	keep(0, 100, pace_real_now());
	match.standby = 0;
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, outputs, 2, runs, NULL, 0), 0);
	CHECK_EQUAL(backlog_send_all(worker), 0);
	CHECK_EQUAL(received(0), 1);
	CHECK_EQUAL(worker->segment->outputs[OUTPUT].traffic.packets, 1);
	CHECK_EQUAL(worker->segment->outputs[OUTPUT + 1].skipped.not_wanted, 1);
	end();
}

/* What each leg has kept leaves in the order in which it came, although they are told one by one. */
static void test_legs(void)
{
	enum { OTHER = SLOT + 1 };
	const struct rule_counters *others;
	uint64_t now;
	uint32_t i;

	check_about("legs");
	begin();
	merged = 1;
	put_leg(SLOT, 1);
	put_leg(OTHER, 1);
	others = &worker->segment->rules[OTHER];
	now = pace_real_now();
	for (i = 0; i < 100; i++)
		keep_leg(i % 3 ? SLOT : OTHER, i, 100, now - 100ULL * MS + i * 1ULL * MS);
	put_leg(SLOT, 0);
	CHECK_EQUAL(backlog_send(worker, now + 50ULL * MS), 0);
	CHECK_EQUAL(received(0), 0); /* the first one is with the other leg */
	keep_leg(SLOT, 100, 100, now + 50ULL * MS);
	keep_leg(OTHER, 101, 100, now + 51ULL * MS);
	put_leg(OTHER, 0);
	CHECK_EQUAL(backlog_send(worker, now + 60ULL * MS), 0);
	i = received(0);
	CHECK(i < 50); /* tenfold: a few are due */
	CHECK_EQUAL(backlog_send(worker, now + 1000ULL * MS), 0);
	CHECK_EQUAL(received(i), 102 - i);
	CHECK_EQUAL(counters()->backlog + others->backlog, 0);
	CHECK_EQUAL(counters()->traffic.packets + others->traffic.packets, 102);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over + worker->rules.by_slot[OTHER]->takes_over, 0);
	end();
}

/* One that is not told, as its interface is about to go, is waited for no longer than another host is. */
static void test_a_leg_that_is_not_told(void)
{
	enum { OTHER = SLOT + 1 };
	uint64_t now;

	check_about("a leg that is not told");
	begin();
	merged = 1;
	put_leg(SLOT, 1);
	put_leg(OTHER, 1);
	now = pace_real_now();
	keep_leg(OTHER, 1, 100, now - MS);
	keep_leg(SLOT, 0, 100, now);
	put_leg(SLOT, 0);
	CHECK_EQUAL(backlog_send(worker, now + BACKLOG_SILENCE_NS / 2), 0);
	CHECK_EQUAL(received(0), 0);
	CHECK_EQUAL(backlog_send(worker, now + 2 * BACKLOG_SILENCE_NS), 0);
	CHECK_EQUAL(received(0), 1);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 0);
	put_leg(OTHER, 0);
	CHECK_EQUAL(backlog_send(worker, now + 3 * BACKLOG_SILENCE_NS), 0);
	CHECK_EQUAL(received(1), 1);
	CHECK_EQUAL(worker->rules.by_slot[OTHER]->takes_over, 0);
	end();
}

/* What is heard stands for one datagram, whichever leg brought it, and whichever goes meanwhile. */
static void test_legs_hear_together(void)
{
	enum { OTHER = SLOT + 1 };
	const struct rule_counters *others;
	uint64_t now;
	uint32_t i;

	check_about("legs that hear");
	begin();
	hears = merged = 1;
	put_leg(SLOT, 1);
	put_leg(OTHER, 1);
	others = &worker->segment->rules[OTHER];
	now = pace_real_now();
	send_elsewhere(7, 100);
	hear(); /* before it comes here */
	for (i = 0; i < 6; i++)
		keep_leg(i % 2 ? SLOT : OTHER, 7, 100, now + i);
	CHECK_EQUAL(counters()->overheard + others->overheard, 1);
	CHECK_EQUAL(counters()->backlog + others->backlog, 5);
	for (i = 0; i < 4; i++)
		send_elsewhere(7, 100);
	hear();
	CHECK_EQUAL(counters()->overheard + others->overheard, 5);
	CHECK_EQUAL(counters()->backlog, 1); /* the last one */
	keep_leg(OTHER, 8, 100, now + 6);
	CHECK_EQUAL(worker_remove_rule(worker, OTHER), 0);
	keep_leg(SLOT, 8, 100, now + 7);
	keep_leg(SLOT, 9, 100, now + 8);
	send_elsewhere(7, 100);
	send_elsewhere(8, 100);
	hear();
	CHECK_EQUAL(counters()->overheard + others->overheard, 7);
	put_leg(SLOT, 0);
	CHECK_EQUAL(backlog_send_all(worker), 0);
	CHECK_EQUAL(received(9), 1);
	end();
}

/* What it kept as that is of no stream but its old one: nothing that is heard for others stands for it. */
static void test_a_leg_of_another_stream(void)
{
	enum { OTHER = SLOT + 1 };
	const struct rule_counters *others;

	check_about("a leg of another stream");
	begin();
	hears = merged = 1;
	put_leg(SLOT, 1);
	keep_leg(SLOT, 7, 100, pace_real_now());
	merged = 2;
	put_leg(SLOT, 1);
	CHECK_EQUAL(counters()->backlog, 1);
	merged = 1;
	put_leg(OTHER, 1);
	others = &worker->segment->rules[OTHER];
	send_elsewhere(7, 100);
	hear();
	CHECK_EQUAL(counters()->overheard + others->overheard, 0);
	CHECK_EQUAL(counters()->backlog, 1);
	keep_leg(OTHER, 7, 100, pace_real_now());
	CHECK_EQUAL(others->overheard, 1);
	end();
}

/* It sends what it has kept, and what came before that: the rest keeps its time. */
static void test_a_leg_that_goes_while_they_take_over(void)
{
	enum { OTHER = SLOT + 1 };
	uint64_t now;
	uint32_t i;

	check_about("a leg that goes");
	begin();
	merged = 1;
	put_leg(SLOT, 1);
	put_leg(OTHER, 1);
	now = pace_real_now();
	for (i = 0; i < 10; i++)
		keep_leg(i % 2 ? SLOT : OTHER, i, 100, now - 400ULL * MS + i * 1ULL * MS);
	for (; i < 1000; i++)
		keep_leg(SLOT, i, 100, now);
	put_leg(SLOT, 0);
	put_leg(OTHER, 0);
	CHECK_EQUAL(worker_remove_rule(worker, OTHER), 0);
	CHECK_EQUAL(received(0), 9);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 1);
	CHECK_EQUAL(backlog_send(worker, now + 1000ULL * MS), 0); /* it begins */
	CHECK_EQUAL(received(9), 1);
	CHECK_EQUAL(backlog_send(worker, now + 2000ULL * MS), 0);
	CHECK_EQUAL(received(10), 990);
	CHECK_EQUAL(worker->rules.by_slot[SLOT]->takes_over, 0);
	end();
}

/* One that has nothing relays nothing before the others have sent what they have. */
static void test_a_leg_that_has_kept_nothing(void)
{
	enum { OTHER = SLOT + 1 };
	uint64_t now;

	check_about("a leg that has kept nothing");
	begin();
	merged = 1;
	put_leg(SLOT, 1);
	put_leg(OTHER, 1);
	now = pace_real_now();
	keep_leg(SLOT, 0, 100, now - 200ULL * MS);
	keep_leg(SLOT, 1, 100, now);
	put_leg(SLOT, 0);
	put_leg(OTHER, 0);
	CHECK_EQUAL(worker->rules.by_slot[OTHER]->takes_over, 1);
	keep_leg(OTHER, 2, 100, now + MS);
	CHECK_EQUAL(backlog_send(worker, now + MS), 0);
	CHECK(received(0) <= 1 && worker->rules.by_slot[OTHER]->takes_over);
	/* The worker ends: all leaves at once. */
	CHECK_EQUAL(backlog_send_all(worker), 0);
	CHECK_EQUAL(worker->segment->outputs[OUTPUT].traffic.packets, 3);
	CHECK_EQUAL(worker->rules.by_slot[OTHER]->takes_over + worker->rules.by_slot[SLOT]->takes_over, 0);
	end();
}

int main(void)
{
	test_legs();
	test_a_leg_that_is_not_told();
	test_a_leg_that_has_kept_nothing();
	test_legs_hear_together();
	test_a_leg_of_another_stream();
	test_a_leg_that_goes_while_they_take_over();
	test_sources();
	test_members(1);
	test_members(0);
	test_a_clock_that_is_set_back_while_it_hears();
	test_a_stream_with_gaps_while_both_are_told_to_send();
	test_it_may_hear_no_more_while_it_waits();
	test_what_another_host_has_sent_is_not_sent_again();
	test_what_is_heard_elsewhere();
	test_the_memory_is_made_once();
	test_the_same_content_many_times();
	test_it_waits_for_a_host_that_goes_on_no_longer_than_it_keeps();
	test_a_clock_that_is_set_back();
	test_what_takes_over_is_sent_when_its_rule_goes();
	test_what_is_too_old_is_not_sent();
	test_it_leaves_at_four_times_its_pace_and_in_order();
	test_a_full_memory(0);
	test_a_full_memory(1);
	test_a_worker_before_this_one_had_some();
	return check_result();
}
