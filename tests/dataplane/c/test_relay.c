/* relay.c with real sockets: what one output of a rule gets or not is no matter of the others.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "relay.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arrival.h"
#include "check.h"
#include "frames.h"

enum { SLOT = 3, FIRST = 5, SECOND = 6 };

static struct worker *worker;
static int receiver;

static void begin(void)
{
	struct sockaddr_in where = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct worker_settings settings = { .channel = -1, .readiness = -1, .sockets = 1, .interface_count = 1 };
	int segment = memfd_create("segment", 0), guard = memfd_create("guard", 0), sender;
	uint64_t seed[MCRD_GUARD_SEEDS] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	socklen_t size = sizeof(where);

	receiver = socket(AF_INET, SOCK_DGRAM, 0);
	sender = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	CHECK_EQUAL(bind(receiver, (struct sockaddr *)&where, sizeof(where)), 0);
	CHECK_EQUAL(getsockname(receiver, (struct sockaddr *)&where, &size), 0);
	CHECK_EQUAL(connect(sender, (struct sockaddr *)&where, size), 0);
	worker = worker_new(&settings);
	CHECK_EQUAL(ftruncate(segment, sizeof(struct segment)), 0);
	CHECK_EQUAL(pwrite(segment, &(uint32_t){ MCRD_SEGMENT_VERSION }, 4, offsetof(struct segment, version)), 4);
	CHECK_EQUAL(worker_map_segment(worker, segment), 0);
	CHECK_EQUAL(ftruncate(guard, sizeof(struct guard_memory)), 0);
	CHECK_EQUAL(pwrite(guard, seed, sizeof(seed), offsetof(struct guard_memory, seed)), sizeof(seed));
	CHECK_EQUAL(worker_map_guard(worker, guard), 0);
	CHECK(worker_open_engine(worker, 1) >= 0);
	CHECK_EQUAL(worker_set_socket(worker, 0, sender), 0);
	worker->interfaces[0].settings = &worker->settings.interfaces[0];
	worker->interfaces[0].counters = &worker->segment->interfaces[0];
	close(segment);
	close(guard);
}

static void end(void)
{
	worker_free(worker);
	close(receiver);
}

/* A rule whose second output is an ordinary one. */
static void put(const struct rule_output *first)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = DESTINATION_PORT,
	};
	struct rule_output outputs[] = { *first, { .socket = 0, .counters = SECOND } };

	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, outputs, 2, NULL, NULL, 0), 0);
}

/* A frame arrives, as long as no other one; returns how many datagrams leave. */
static uint32_t arrives(void)
{
	static uint32_t length = 1;
	static uint64_t now = 1000000000;
	struct shape shape = { .family = 4, .payload = length };
	struct arrival arrival = { .here = &worker->interfaces[0], .ring = worker->interfaces[0].rings };
	struct built built;
	uint8_t payload[FRAME_ROOM];
	uint32_t count = 0;

	build(&shape, &built);
	arrival.frame.frame = (struct frame){ .data = built.data, .captured = built.length, .length = built.length };
	arrival.frame.time = now++;
	arrival.verdict = packet_parse(&arrival.frame.frame, &arrival.packet);
	CHECK_EQUAL(arrival.verdict, PACKET_DATAGRAM);
	arrival.size = arrival.packet.payload_length;
	arrival.rule = worker->rules.by_slot[SLOT];
	CHECK_EQUAL(relay_frame(worker, &arrival), 0);
	CHECK_EQUAL(egress_flush(&worker->egress, worker_complete, worker), 0);
	for (; recv(receiver, payload, sizeof(payload), MSG_DONTWAIT) == (ssize_t)length; count++)
		CHECK_EQUAL(memcmp(payload, built.data + built.transport + 8, length), 0);
	length++;
	return count;
}

static const struct output_counters *of(uint32_t slot)
{
	return &worker->segment->outputs[slot];
}

static void test_an_output_without_its_member(void)
{
	struct member_key key = {
		.slot = SLOT,
		.destination = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
	};
	const uint32_t none[] = { MCRD_BY_MEMBER }, unwanted[] = { MCRD_UNWANTED };

	begin();
	put(&(struct rule_output){ .socket = MCRD_BY_MEMBER, .counters = FIRST });
	check_about("no member");
	CHECK_EQUAL(arrives(), 1);
	CHECK_EQUAL(of(FIRST)->waiting, 1);
	check_about("a member without a socket");
	CHECK_EQUAL(worker_put_member(worker, &key, 0, none, 1), 0);
	CHECK_EQUAL(arrives(), 1);
	CHECK_EQUAL(of(FIRST)->dropped.new_member, 1);
	check_about("a member that nobody wants");
	CHECK_EQUAL(worker_put_member(worker, &key, 0, unwanted, 1), 0);
	CHECK_EQUAL(arrives(), 1);
	CHECK_EQUAL(of(FIRST)->skipped.not_wanted, 1);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 3);
	CHECK_EQUAL(worker->segment->rules[SLOT].traffic.packets, 3);
	end();
}

static void test_an_output_without_a_way(void)
{
	check_about("nowhere");
	begin();
	put(&(struct rule_output){ .socket = MCRD_NOWHERE, .counters = FIRST });
	CHECK_EQUAL(arrives(), 1);
	CHECK_EQUAL(of(FIRST)->dropped.unreachable, 1);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 1);
	end();
}

static void test_an_output_that_skips(void)
{
	uint32_t i;

	check_about("sample");
	begin();
	put(&(struct rule_output){ .socket = 0, .counters = FIRST, .sample = 3 });
	for (i = 0; i < 9; i++)
		CHECK(arrives() >= 1);
	CHECK_EQUAL(of(FIRST)->traffic.packets, 3);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 9);
	CHECK_EQUAL(worker->segment->rules[SLOT].traffic.packets, 9);
	CHECK_EQUAL(worker->segment->interfaces[0].traffic.packets, 9);
	end();
}

static void test_an_output_with_a_limit(void)
{
	uint32_t i;

	check_about("limit");
	begin();
	put(&(struct rule_output){ .socket = 0, .counters = FIRST, .packets_per_second = 2 });
	for (i = 0; i < 5; i++)
		CHECK(arrives() >= 1);
	CHECK_EQUAL(of(FIRST)->traffic.packets, 2);
	CHECK_EQUAL(of(FIRST)->dropped.rate_limited, 3);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 5);
	end();
}

int main(void)
{
	test_an_output_without_its_member();
	test_an_output_without_a_way();
	test_an_output_that_skips();
	test_an_output_with_a_limit();
	return check_result();
}
