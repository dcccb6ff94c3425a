/* answers.c with both engines and real sockets, on the loopback interface.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "answers.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "pace.h"

enum { PLACES = 200, SECOND = 1000000000 };

static int polls;
static struct engine engine;
static struct egress egress;
static struct answers answers;
static uint64_t asked, now;
static struct segment segment;

static void on_completion(void *context, const struct completion *done)
{
	(void)context;
	if (!answers_complete(&answers, done))
		CHECK_EQUAL(done->what, EGRESS_CANCEL); /* the end of what was listened to */
}

static int bound(struct sockaddr_in *name)
{
	struct timeval patience = { .tv_sec = 5 };
	socklen_t length = sizeof(*name);
	int made = socket(AF_INET, SOCK_DGRAM, 0);

	*name = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	CHECK(made >= 0 && bind(made, (struct sockaddr *)name, sizeof(*name)) == 0);
	CHECK(setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0);
	getsockname(made, (struct sockaddr *)name, &length);
	return made;
}

static void put(uint32_t place, int descriptor)
{
	CHECK_EQUAL(answers_end(&answers, place), 0);
	CHECK_EQUAL(engine.calls->put(&engine, (struct engine_file){ place, descriptor }), 0);
	egress_put(&egress, place, descriptor);
}

static void begin(void)
{
	engine = (struct engine){ .calls = &uring_calls };
	if (polls) {
		CHECK_EQUAL(polling_open(&engine, -1, -1), 0);
	} else {
		CHECK_EQUAL(io_uring_queue_init(64, &engine.uring, 0), 0); /* fewer than are polled */
		CHECK_EQUAL(io_uring_register_files_sparse(&engine.uring, ENGINE_PLACES + PLACES), 0);
	}
	egress = (struct egress){ 0 };
	answers = (struct answers){ 0 };
	segment.sent = segment.failed = 0;
	segment.outputs[0] = (struct output_counters){ 0 };
	asked = 1;
	now = SECOND;
	CHECK_EQUAL(egress_init(&egress, &engine, PLACES, &segment), 0);
	CHECK_EQUAL(answers_init(&answers, &egress), 0);
}

static void end(void)
{
	engine.calls->close(&engine);
	egress_free(&egress);
	answers_free(&answers);
}

/* A port at `place`, whose asker has its socket at `place` + 1. */
static void listen_at(uint32_t place, const struct sockaddr_in *asker, struct sockaddr_in *port)
{
	struct output to = { .socket = place + 1, .counters = &segment.outputs[0] };
	struct sockaddr_in own;
	int back = bound(&own);

	put(place, bound(port));
	CHECK_EQUAL(connect(back, (const struct sockaddr *)asker, sizeof(*asker)), 0);
	put(place + 1, back);
	CHECK_EQUAL(answers_listen(&answers, place, &to, &asked, SECOND, 0), 0);
}

static void answer(int from, const struct sockaddr_in *to, const char *text, size_t length)
{
	CHECK_EQUAL(sendto(from, text, length, 0, (const struct sockaddr *)to, sizeof(*to)), length);
}

/* As the worker's loop: until so many have been dealt with, one way or another. */
static void work_until(uint64_t dealt_with)
{
	struct completion done;

	while (segment.sent + segment.failed + segment.outputs[0].late + segment.outputs[0].dropped.new_member <
		       dealt_with &&
	       answers.unknown_count == 0) {
		uint64_t began = pace_now();

		if (answers.queue.count > 0) {
			CHECK_EQUAL(answers_take(&answers, now, on_completion, NULL), 0);
			continue;
		}
		CHECK_EQUAL(engine.calls->wait(&engine, 5ULL * SECOND), 0);
		if (pace_now() - began >= 5ULL * SECOND) {
			CHECK(!"nothing came");
			return;
		}
		while (engine.calls->look(&engine, &done))
			on_completion(NULL, &done);
	}
}

/* Until nothing is to be looked at. */
static void work_until_all_look(void)
{
	struct completion done;

	if (answers.queue.count == 0)
		CHECK_EQUAL(engine.calls->wait(&engine, 5ULL * SECOND), 0);
	while (engine.calls->look(&engine, &done))
		on_completion(NULL, &done);
	while (answers.queue.count > 0)
		CHECK_EQUAL(answers_take(&answers, now, on_completion, NULL), 0);
}

/* Until a port has to ask whose its first answer is. */
static void work_until_asked(void)
{
	work_until(UINT64_MAX);
	CHECK(answers.unknown_count > 0);
}

static void test_answers_go_back(void)
{
	struct sockaddr_in asker, port, one, two;
	int asks = bound(&asker), first = bound(&one), second = bound(&two), i;
	char text[2000];

	check_about("answers of two go to who asked, whole and in order");
	begin();
	listen_at(3, &asker, &port);
	for (i = 0; i < 20; i++) {
		answer(first, &port, (char *)&i, sizeof(i));
		answer(second, &port, text, sizeof(text));
	}
	answer(first, &port, "", 0);
	work_until(41);
	for (i = 0; i < 20; i++) {
		CHECK_EQUAL(recv(asks, text, sizeof(text), 0), sizeof(i));
		CHECK_EQUAL(*(int *)(void *)text, i);
		CHECK_EQUAL(recv(asks, text, sizeof(text), 0), 2000);
	}
	CHECK_EQUAL(recv(asks, text, sizeof(text), 0), 0);
	CHECK_EQUAL(segment.outputs[0].traffic.packets, 41);
	CHECK_EQUAL(segment.outputs[0].traffic.bytes, 20 * 2004);
	end();
	close(asks);
	close(first);
	close(second);
}

static struct endpoint endpoint(const struct sockaddr_in *name)
{
	struct endpoint who = { .family = 4, .port = ntohs(name->sin_port) };

	memcpy(who.address, &name->sin_addr, 4);
	return who;
}

static void test_each_answers_by_its_own_socket(void)
{
	struct sockaddr_in asker, port, own, one, two, three;
	int asks = bound(&asker), first = bound(&one), second = bound(&two), theirs = bound(&own), third = bound(&three), i;
	struct output to = { .socket = 4, .counters = &segment.outputs[0] };
	struct endpoint who = endpoint(&one), other = endpoint(&two);
	char text[2000];

	check_about("kept sources: answers wait for a socket, in order");
	begin();
	listen_at(3, &asker, &port);
	CHECK_EQUAL(answers_listen(&answers, 3, &to, &asked, SECOND, 1), 0);
	CHECK_EQUAL(connect(theirs, (struct sockaddr *)&asker, sizeof(asker)), 0);
	put(5, theirs);
	for (i = 0; i < 3; i++) {
		answer(first, &port, (char *)&i, sizeof(i));
		answer(second, &port, text, sizeof(text));
	}
	work_until_asked();
	CHECK_EQUAL(answers_next_unknown(&answers), 3);
	CHECK_EQUAL(answers_next_unknown(&answers), -1);
	CHECK_EQUAL(segment.sent, 0);
	/* Nobody was there after all, so it asks again. */
	CHECK_EQUAL(answers_tell(&answers, 3, &(struct endpoint){ 0 }, MCRD_NOWHERE), 0);
	work_until_asked();
	CHECK_EQUAL(answers_next_unknown(&answers), 3);
	CHECK_EQUAL(answers_tell(&answers, 3, &who, 5), 0);
	work_until_asked(); /* the other one is next */
	CHECK_EQUAL(segment.sent, 1);
	CHECK_EQUAL(answers_next_unknown(&answers), 3);
	CHECK_EQUAL(answers_tell(&answers, 3, &other, MCRD_NOWHERE), 0);
	work_until(3 + 3);
	CHECK_EQUAL(segment.sent, 3);
	CHECK_EQUAL(segment.outputs[0].dropped.new_member, 3);
	for (i = 0; i < 3; i++) {
		struct sockaddr_in from;
		socklen_t length = sizeof(from);

		CHECK_EQUAL(recvfrom(asks, text, sizeof(text), 0, (struct sockaddr *)&from, &length), sizeof(i));
		CHECK_EQUAL(*(int *)(void *)text, i);
		CHECK_EQUAL(from.sin_port, own.sin_port);
	}
	/* Its end takes its question with it. */
	answer(third, &port, "", 0);
	work_until_asked();
	put(3, -1);
	CHECK_EQUAL(answers_next_unknown(&answers), -1);
	CHECK_EQUAL(answers.asking + answers.woken + answers.line.count, 0);
	end();
	close(asks);
	close(first);
	close(second);
	close(third);
}

static void test_so_many_ask_at_once(void)
{
	enum { PORTS = 2 * ANSWERS_UNKNOWN > PLACES / 2 ? PLACES / 2 : 2 * ANSWERS_UNKNOWN };
	struct sockaddr_in asker, one, port;
	int asks = bound(&asker), from = bound(&one), asked_for = 0;
	struct endpoint who = endpoint(&one);
	uint32_t i;
	int64_t place;

	check_about("no more ports ask than may, and each has its turn");
	begin();
	for (i = 0; i < PORTS; i++) {
		struct output to = { .socket = 2 * i + 1, .counters = &segment.outputs[0] };

		listen_at(2 * i, &asker, &port);
		CHECK_EQUAL(answers_listen(&answers, 2 * i, &to, &asked, SECOND, 1), 0);
		answer(from, &port, "", 0);
	}
	while (asked_for < PORTS) {
		work_until_asked();
		CHECK(answers.asking <= ANSWERS_UNKNOWN);
		while ((place = answers_next_unknown(&answers)) >= 0) {
			asked_for++;
			CHECK_EQUAL(answers_tell(&answers, (uint32_t)place, &who, (uint32_t)place + 1), 0);
		}
	}
	work_until(PORTS);
	CHECK_EQUAL(segment.sent, PORTS);
	CHECK_EQUAL(answers.asking + answers.woken + answers.line.count, 0);
	end();
	close(asks);
	close(from);
}

static void test_a_socket_that_could_not_be_had(void)
{
	struct sockaddr_in asker, port, own, one;
	int asks = bound(&asker), first = bound(&one), theirs = bound(&own);
	struct output to = { .socket = 4, .counters = &segment.outputs[0] };
	struct endpoint who = endpoint(&one);
	char text[10];

	check_about("a host that got no socket: another try, but not at once");
	begin();
	listen_at(3, &asker, &port);
	CHECK_EQUAL(answers_listen(&answers, 3, &to, &asked, SECOND, 1), 0);
	CHECK_EQUAL(connect(theirs, (struct sockaddr *)&asker, sizeof(asker)), 0);
	put(5, theirs);
	answer(first, &port, "1", 1);
	work_until_asked();
	CHECK_EQUAL(answers_next_unknown(&answers), 3);
	CHECK_EQUAL(answers_tell(&answers, 3, &who, MCRD_NOWHERE), 0);
	work_until(1);
	asked = now += ANSWERERS_AGAIN - 1;
	answer(first, &port, "2", 1);
	work_until(2);
	CHECK_EQUAL(segment.outputs[0].dropped.new_member, 2);
	now++;
	answer(first, &port, "3", 1);
	work_until_asked();
	CHECK_EQUAL(answers_next_unknown(&answers), 3);
	CHECK_EQUAL(answers_tell(&answers, 3, &who, 5), 0);
	CHECK_EQUAL(answers.ports[3].known_count, 1);
	work_until(3);
	CHECK_EQUAL(recv(asks, text, sizeof(text), 0), 1);
	CHECK_EQUAL(text[0], '3');
	/* And a clock that is set back keeps nobody waiting. */
	CHECK_EQUAL(answers_tell(&answers, 3, &who, MCRD_NOWHERE), 0);
	asked = now = SECOND;
	answer(first, &port, "4", 1);
	work_until_asked();
	CHECK_EQUAL(segment.sent, 1);
	end();
	close(asks);
	close(first);
}

static void test_each_answer_wakes_one(void)
{
	enum { PORTS = PLACES / 2 };
	struct sockaddr_in asker, one, port;
	int asks = bound(&asker), from = bound(&one);
	struct endpoint who = endpoint(&one);
	uint32_t i, line;

	check_about("ports in the line: an answer to one wakes one more");
	begin();
	for (i = 0; i < PORTS; i++) {
		struct output to = { .socket = 2 * i + 1, .counters = &segment.outputs[0] };

		listen_at(2 * i, &asker, &port);
		CHECK_EQUAL(answers_listen(&answers, 2 * i, &to, &asked, SECOND, 1), 0);
		answer(from, &port, "", 0);
	}
	while (answers.asking + answers.line.count < PORTS)
		work_until_all_look();
	CHECK_EQUAL(answers.asking, ANSWERS_UNKNOWN);
	for (line = answers.line.count; line > 0; line--) {
		int64_t place = answers_next_unknown(&answers);

		CHECK(place >= 0);
		CHECK_EQUAL(answers_tell(&answers, (uint32_t)place, &who, (uint32_t)place + 1), 0);
		CHECK_EQUAL(answers.queue.count, 2); /* this one, and the first of the line */
		work_until_all_look();
		CHECK_EQUAL(answers.asking, ANSWERS_UNKNOWN);
		CHECK_EQUAL(answers.line.count, line - 1);
	}
	end();
	close(asks);
	close(from);
}

static void test_so_many_ask_in_a_second(void)
{
	struct sockaddr_in asker, port, one, two;
	int asks = bound(&asker), first = bound(&one), second = bound(&two);
	struct output to = { .socket = 4, .counters = &segment.outputs[0] };
	struct endpoint who = endpoint(&one);

	check_about("new hosts beyond those to ask about in a second: counted");
	begin();
	answers.asks.rate = 1;
	listen_at(3, &asker, &port);
	CHECK_EQUAL(answers_listen(&answers, 3, &to, &asked, SECOND, 1), 0);
	answer(first, &port, "", 0);
	work_until_asked();
	CHECK_EQUAL(answers_next_unknown(&answers), 3);
	CHECK_EQUAL(answers_tell(&answers, 3, &who, MCRD_NOWHERE), 0);
	work_until(1);
	answer(second, &port, "", 0);
	answer(second, &port, "", 0);
	work_until(3);
	CHECK_EQUAL(segment.outputs[0].dropped.new_member, 3);
	CHECK_EQUAL(answers.asking + answers.woken + answers.line.count + answers.unknown_count, 0);
	end();
	close(asks);
	close(first);
	close(second);
}

static void test_many_ports(void)
{
	struct sockaddr_in askers[PLACES / 2], ports[PLACES / 2], from;
	int asks[PLACES / 2], answers_from = bound(&from), round, i;

	check_about("more ports than fit a batch, or the queue");
	begin();
	for (i = 0; i < PLACES / 2; i++) {
		asks[i] = bound(&askers[i]);
		listen_at(2 * (uint32_t)i, &askers[i], &ports[i]);
	}
	for (round = 1; round <= 3; round++) {
		for (i = 0; i < PLACES / 2; i++)
			answer(answers_from, &ports[i], (char *)&i, sizeof(i));
		work_until((uint64_t)round * PLACES / 2);
		for (i = 0; i < PLACES / 2; i++) {
			int got = -1;

			CHECK_EQUAL(recv(asks[i], &got, sizeof(got), 0), sizeof(got));
			CHECK_EQUAL(got, i);
		}
	}
	end();
	for (i = 0; i < PLACES / 2; i++)
		close(asks[i]);
	close(answers_from);
}

static void test_late(void)
{
	struct sockaddr_in asker, port, from;
	int asks = bound(&asker), answers_from = bound(&from);
	char text[8];

	check_about("what is late goes nowhere, and is counted");
	begin();
	listen_at(0, &asker, &port);
	answer(answers_from, &port, "in time", 7);
	work_until(1);
	CHECK_EQUAL(recv(asks, text, sizeof(text), 0), 7);
	asked = 0; /* the clock of work_until() says 1 s */
	answers.ports[0].within = SECOND - 1;
	answer(answers_from, &port, "late", 4);
	work_until(2);
	CHECK_EQUAL(segment.outputs[0].late, 1);
	CHECK_EQUAL(segment.sent, 1);
	CHECK_EQUAL(recv(asks, text, sizeof(text), MSG_DONTWAIT), -1);
	end();
	close(asks);
	close(answers_from);
}

static void test_end(void)
{
	struct sockaddr_in asker, other, port, again, from;
	int asks = bound(&asker), other_asks = bound(&other), answers_from = bound(&from), reused;
	uint64_t i;
	char text[8];

	check_about("after its end a port is nobody's, and its place another's");
	begin();
	listen_at(0, &asker, &port);
	answer(answers_from, &port, "1", 1);
	work_until(1);
	CHECK_EQUAL(recv(asks, text, sizeof(text), 0), 1);
	/* Something waits there when it ends. */
	answer(answers_from, &port, "2", 1);
	put(0, -1);
	put(1, -1);
	listen_at(0, &other, &again);
	answer(answers_from, &again, "three", 5);
	work_until(2);
	CHECK_EQUAL(recv(other_asks, text, sizeof(text), 0), 5);
	CHECK_EQUAL(recv(asks, text, sizeof(text), MSG_DONTWAIT), -1);
	/* And again: what it was polled by is told from what it is polled by now. */
	for (i = 0; i < 40; i++) {
		put(0, -1);
		put(1, -1);
		listen_at(0, &other, &again);
		answer(answers_from, &again, "more", 4);
		work_until(3 + i);
		CHECK_EQUAL(recv(other_asks, text, sizeof(text), 0), 4);
	}
	/* No poll holds the old port. */
	reused = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK_EQUAL(bind(reused, (struct sockaddr *)&port, sizeof(port)), 0);
	close(reused);
	end();
	close(asks);
	close(other_asks);
	close(answers_from);
}

static void test_refused(void)
{
	struct sockaddr_in gone, port, from;
	int asks = bound(&gone), answers_from = bound(&from);

	check_about("refusals of an asker are counted");
	begin();
	listen_at(0, &gone, &port);
	close(asks);
	answer(answers_from, &port, "1", 1);
	work_until(1);
	answer(answers_from, &port, "2", 1);
	work_until(2);
	CHECK_EQUAL(segment.sent, 2);
	CHECK_EQUAL(segment.outputs[0].refused, 1);
	end();
	close(answers_from);
}

/* Writes that have been submitted fail for lack of memory; nothing else does. */
static int finish_receives(struct engine *of, unsigned int number)
{
	return segment.submitted ? -ENOMEM : uring_calls.finish(of, number);
}

static void test_an_engine_that_fails(void)
{
	struct sockaddr_in asker, port, one;
	int asks = bound(&asker), first = bound(&one);
	struct output to = { .socket = 4, .counters = &segment.outputs[0] };
	struct endpoint who = endpoint(&one);
	struct engine_calls fails = uring_calls;

	check_about("an engine that fails: the worker hears of it");
	fails.finish = finish_receives;
	begin();
	listen_at(3, &asker, &port);
	CHECK_EQUAL(answers_listen(&answers, 3, &to, &asked, SECOND, 1), 0);
	answer(first, &port, "1", 1);
	work_until_asked();
	CHECK_EQUAL(answers_next_unknown(&answers), 3);
	CHECK_EQUAL(answers_tell(&answers, 3, &who, 4), 0);
	segment.submitted = 0; /* of tests before this one */
	engine.calls = &fails;
	CHECK_EQUAL(answers_take(&answers, now, on_completion, NULL), -ENOMEM);
	CHECK_EQUAL(segment.sent, 0);
	end();
	close(asks);
	close(first);
}

static uint32_t heard[2];

static void on_told(void *context, uint32_t place, uint32_t slot, const uint8_t *data, uint32_t length)
{
	(void)context, (void)data;
	CHECK_EQUAL(place, 3 + slot);
	CHECK_EQUAL(length, 4);
	heard[slot]++;
}

static void test_a_flood_at_what_is_overheard(void)
{
	enum { BURST = OVERHEARD_AT_ONCE * ANSWERS_AT_ONCE + 100 };
	struct completion done;
	struct sockaddr_in ears[2], from;
	int sends = bound(&from), room = 8 << 20, calls = 0, i, j;
	uint32_t before;

	check_about("so many are heard at a time, and each in its turn");
	begin();
	heard[0] = heard[1] = 0;
	for (i = 0; i < 2; i++) {
		int ear = bound(&ears[i]);

		CHECK_EQUAL(setsockopt(ear, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)), 0);
		put(3 + (uint32_t)i, ear);
		CHECK_EQUAL(answers_overhear(&answers, 3 + (uint32_t)i, (uint32_t)i), 0);
		for (j = 0; j < BURST; j++)
			answer(sends, &ears[i], "each", 4);
	}
	while (heard[0] + heard[1] < 2 * BURST && calls++ < 100) {
		CHECK_EQUAL(engine.calls->wait(&engine, answers.heard.count > 0 ? 1 : 5ULL * SECOND), 0);
		while (engine.calls->look(&engine, &done))
			on_completion(NULL, &done);
		before = heard[0] + heard[1];
		CHECK_EQUAL(answers_hear(&answers, on_told, on_completion, NULL), 0);
		CHECK(heard[0] + heard[1] - before <= OVERHEARD_AT_ONCE * ANSWERS_AT_ONCE);
		CHECK(calls < 2 || (heard[0] > 0 && heard[1] > 0));
	}
	CHECK_EQUAL(heard[0], BURST);
	CHECK_EQUAL(heard[1], BURST);
	end();
	close(sends);
}

int main(void)
{
	for (polls = 0; polls < 2; polls++) {
		test_answers_go_back();
		test_each_answers_by_its_own_socket();
		test_so_many_ask_at_once();
		test_each_answer_wakes_one();
		test_a_socket_that_could_not_be_had();
		test_so_many_ask_in_a_second();
		test_many_ports();
		test_late();
		test_end();
		test_refused();
		test_a_flood_at_what_is_overheard();
	}
	polls = 0; /* whoever polls has written when a write returns */
	test_an_engine_that_fails();
	return check_result();
}
