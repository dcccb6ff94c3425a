/* relay.c with real sockets: what one output of a rule gets or not is no matter of the others.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arrival.h"
#include "check.h"
#include "frames.h"
#include "held.h"
#include "hold.h"
#include "late.h"

enum { SLOT = 3, FIRST = 5, SECOND = 6, STREAM = 7 };

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
	CHECK(worker_make_places(worker) == 0);
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

static uint64_t now = 1000000000;
static int together; /* what arrives is not sent yet */

/* A frame arrives for the rule of a slot; `numbered`: as RTP with that number. Returns how many datagrams leave. */
static uint32_t arrives_with(uint32_t slot, uint32_t length, uint32_t numbered, uint32_t *numbers)
{
	struct shape shape = { .family = 4, .payload = length };
	struct arrival arrival = { .here = &worker->interfaces[0], .ring = worker->interfaces[0].rings };
	uint8_t payload[FRAME_ROOM], *sent;
	struct built built;
	uint32_t count = 0;

	build(&shape, &built);
	sent = built.data + built.transport + 8;
	if (numbered) {
		memset(sent, 0, 12);
		sent[0] = 0x80;
		set16(sent + 2, numbered);
	}
	arrival.frame.frame = (struct frame){
		.data = built.data, .captured = built.length, .length = built.length, .checksum_known = 1
	};
	arrival.frame.time = now;
	arrival.verdict = packet_parse(&arrival.frame.frame, &arrival.packet);
	CHECK_EQUAL(arrival.verdict, PACKET_DATAGRAM);
	arrival.size = arrival.packet.payload_length;
	arrival.rule = worker->rules.by_slot[slot];
	if (arrival.rule->merge)
		arrival_name(worker, &arrival, 0);
	CHECK_EQUAL(relay_frame(worker, &arrival), 0);
	CHECK_EQUAL(worker->segment->at_work.datagrams, 0);
	if (!together)
		CHECK_EQUAL(egress_flush(&worker->egress, worker_complete, worker), 0);
	for (; recv(receiver, payload, sizeof(payload), MSG_DONTWAIT) == (ssize_t)length; count++) {
		if (numbered)
			numbers[count] = look16(payload + 2);
		else
			CHECK_EQUAL(memcmp(payload, sent, length), 0);
	}
	return count;
}

/* A frame arrives, as long as no other one. */
static uint32_t arrives(void)
{
	static uint32_t length = 1;

	now++;
	return arrives_with(SLOT, length++, 0, NULL);
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

/* What waited for it leaves, or is counted. */
static void test_a_member_that_comes_later(void)
{
	struct member_key key = {
		.slot = SLOT,
		.destination = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
	};
	const uint32_t sockets[] = { 0, MCRD_BY_MEMBER, MCRD_UNWANTED };
	uint8_t payload[FRAME_ROOM];
	uint32_t i;

	check_about("a member comes later");
	for (i = 0; i < 3; i++) {
		begin();
		put(&(struct rule_output){ .socket = MCRD_BY_MEMBER, .counters = FIRST });
		CHECK_EQUAL(arrives(), 1);
		CHECK_EQUAL(of(FIRST)->waiting, 1);
		CHECK_EQUAL(worker_put_member(worker, &key, 0, &sockets[i], 1), 0);
		CHECK_EQUAL(late_send(worker, worker_complete), 0);
		CHECK_EQUAL(of(FIRST)->waiting, 0);
		CHECK_EQUAL(of(FIRST)->traffic.packets, i == 0);
		CHECK_EQUAL(of(FIRST)->dropped.new_member, i == 1);
		CHECK_EQUAL(of(FIRST)->skipped.not_wanted, i == 2);
		CHECK_EQUAL(recv(receiver, payload, sizeof(payload), MSG_DONTWAIT) >= 0, i == 0);
		CHECK_EQUAL(late_send(worker, worker_complete), 0); /* once */
		CHECK_EQUAL(recv(receiver, payload, sizeof(payload), MSG_DONTWAIT), -1);
		end();
	}
}

static void test_an_output_without_a_way(void)
{
	check_about("nowhere");
	begin();
	put(&(struct rule_output){ .socket = MCRD_NOWHERE, .counters = FIRST });
	CHECK_EQUAL(arrives_with(SLOT, 20, 0, NULL), 1);
	CHECK_EQUAL(worker->segment->interfaces[0].traffic.bytes, 14 + 20 + 8 + 20);
	CHECK_EQUAL(arrives_with(SLOT, 0, 0, NULL), 1); /* an empty one is one, too */
	CHECK_EQUAL(worker->segment->interfaces[0].traffic.packets, 2);
	CHECK_EQUAL(of(FIRST)->dropped.unreachable, 2);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 2);
	end();
}

static void test_an_output_that_skips(void)
{
	uint32_t i;

	check_about("sample");
	begin();
	put(&(struct rule_output){ .socket = 0, .counters = FIRST, .sample = 3 });
	for (i = 0; i < 60; i++)
		CHECK(arrives() >= 1);
	CHECK_EQUAL(of(FIRST)->traffic.packets, 20);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 60);
	CHECK_EQUAL(worker->segment->rules[SLOT].traffic.packets, 60);
	CHECK_EQUAL(worker->segment->interfaces[0].traffic.packets, 60);
	end();
}

static void test_so_many_outputs_that_skip(void)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = DESTINATION_PORT,
	};
	struct rule_output outputs[CHOICES + 1];
	uint32_t i;

	check_about("so many that skip");
	begin();
	for (i = 0; i <= CHOICES; i++)
		outputs[i] = (struct rule_output){ .socket = 0, .counters = FIRST + i, .sample = 2 };
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, outputs, CHOICES + 1, NULL, NULL, 0), -E2BIG);
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, outputs, CHOICES, NULL, NULL, 0), 0);
	for (i = 0; i < CHOICES; i++)
		CHECK_EQUAL(worker->rules.by_slot[SLOT]->outputs[i].choice->number, i);
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

/* Two workers get each frame while other rings take the place of old ones: one of them relays it, by its time. */
static void test_frames_that_another_worker_has(void)
{
	enum { ROOM = 2048 - 90 + 14 - 42 }; /* payload of the longest frame that a slot has room for */

	check_about("of another worker");
	begin();
	worker->interfaces[0].rings[0].geometry.frame_size = 2048;
	put(&(struct rule_output){ .socket = MCRD_NOWHERE, .counters = FIRST });
	worker->since = 2000000000;
	worker->until = 3000000000;
	now = worker->since - 1;
	CHECK_EQUAL(arrives_with(SLOT, 20, 0, NULL), 0);
	CHECK_EQUAL(arrives_with(SLOT, ROOM, 0, NULL), 0);
	CHECK_EQUAL(arrives_with(SLOT, ROOM + 1, 0, NULL), 1); /* of fragments: the old rings do not have it */
	now++;
	CHECK_EQUAL(arrives_with(SLOT, 20, 0, NULL), 1);
	now = worker->until - 1;
	CHECK_EQUAL(arrives_with(SLOT, 21, 0, NULL), 1);
	now++;
	CHECK_EQUAL(arrives_with(SLOT, 22, 0, NULL), 0);
	CHECK_EQUAL(worker->segment->interfaces[0].traffic.packets, 3);
	end();
}

/* A leg of a stream, merged by the numbers of RTP, in a slot by both. */
static void put_leg_of(uint32_t stream, uint8_t leg, uint64_t delay, uint32_t first)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = DESTINATION_PORT,
		.vlan = leg,
		.merge = { .stream = stream, .delay = delay, .by = MERGE_RTP, .leg = leg },
	};
	struct rule_output outputs[] = { { .socket = first, .counters = FIRST }, { .socket = 0, .counters = SECOND } };

	CHECK_EQUAL(worker_put_rule(worker, SLOT + stream - STREAM + leg, &match, NULL, outputs, 2, NULL, NULL, 0), 0);
}

static void put_leg(uint8_t leg, uint64_t delay, uint32_t first)
{
	put_leg_of(STREAM, leg, delay, first);
}

static void test_a_stream_in_order(void)
{
	const uint64_t delay = 100000000;
	uint32_t numbers[8];

	check_about("in order");
	begin();
	put_leg(0, delay, MCRD_NOWHERE);
	put_leg(1, delay, MCRD_NOWHERE);
	CHECK_EQUAL(arrives_with(SLOT, 20, 1, numbers), 1);
	CHECK_EQUAL(arrives_with(SLOT, 20, 3, numbers), 0);
	CHECK_EQUAL(worker->segment->merges[SLOT].held, 1);
	CHECK_EQUAL(arrives_with(SLOT + 1, 20, 2, numbers), 2);
	CHECK_EQUAL(numbers[0], 2);
	CHECK_EQUAL(numbers[1], 3);
	CHECK_EQUAL(worker->segment->merges[SLOT].held, 0);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 3);
	CHECK_EQUAL(of(FIRST)->dropped.unreachable, 3); /* whether it was held or not */
	CHECK_EQUAL(worker->segment->failed, 3);
	/* One leg goes: the other one is still in order. */
	CHECK_EQUAL(worker_remove_rule(worker, SLOT + 1), 0);
	CHECK_EQUAL(arrives_with(SLOT, 20, 5, numbers), 0);
	CHECK_EQUAL(arrives_with(SLOT, 20, 4, numbers), 2);
	CHECK_EQUAL(numbers[1], 5);
	/* One that comes after what followed it had to leave is late. */
	CHECK_EQUAL(arrives_with(SLOT, 20, 7, numbers), 0);
	worker->begun = 1;
	CHECK_EQUAL(held_expire(worker, 0, now + delay - 1), 0);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 5);
	CHECK_EQUAL(held_expire(worker, 0, now + delay), 0);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 6);
	CHECK_EQUAL(arrives_with(SLOT, 20, 8, numbers), 1 + 1); /* with the one that has just left */
	CHECK_EQUAL(arrives_with(SLOT, 20, 6, numbers), 0);
	CHECK_EQUAL(worker->segment->interfaces[0].dropped[DROP_TOO_LATE], 1);
	CHECK_EQUAL(worker->segment->rules[SLOT].too_late, 1);
	/* It may be given more time, */
	CHECK_EQUAL(arrives_with(SLOT, 20, 10, numbers), 0);
	put_leg(0, 3 * delay, MCRD_NOWHERE);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 8); /* what is held goes first */
	CHECK_EQUAL(arrives_with(SLOT, 20, 12, numbers), 1);
	CHECK_EQUAL(held_expire(worker, 0, now + 3 * delay - 1), 0);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 8);
	CHECK_EQUAL(held_expire(worker, 0, now + 3 * delay), 0);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 9);
	/* or none. */
	put_leg(0, 0, MCRD_NOWHERE);
	CHECK_EQUAL(worker->ordered, 0);
	CHECK_EQUAL(arrives_with(SLOT, 20, 14, numbers), 2);
	put_leg(0, delay, MCRD_NOWHERE);
	CHECK_EQUAL(arrives_with(SLOT, 20, 15, numbers), 1);
	CHECK_EQUAL(arrives_with(SLOT, 20, 17, numbers), 0); /* it ends with the worker */
	end();
}

/* The order of one that ended is another one's. */
static void test_orders_one_after_the_other(void)
{
	uint32_t i;

	check_about("one order after the other");
	begin();
	for (i = 0; i <= MCRD_ORDERED_STREAMS; i++) {
		put_leg(0, 100000000, MCRD_NOWHERE);
		CHECK_EQUAL(worker->ordered, 1);
		put_leg(0, 0, MCRD_NOWHERE);
		CHECK_EQUAL(worker->ordered, 0);
	}
	end();
}

/* What waits longest leaves, and all before it: that is one lack of room. */
static void test_an_order_without_room(void)
{
	enum { LENGTH = 1400, FULL = 10000 };
	uint32_t numbers[8], number, sent = 0;

	check_about("no room");
	begin();
	put_leg(0, 100000000, MCRD_NOWHERE);
	CHECK_EQUAL(arrives_with(SLOT, LENGTH, 1, numbers), 1);
	CHECK_EQUAL(arrives_with(SLOT, LENGTH, 10, numbers), 0);
	CHECK_EQUAL(arrives_with(SLOT, LENGTH, 4, numbers), 0);
	CHECK_EQUAL(arrives_with(SLOT, LENGTH, 7, numbers), 0);
	for (number = 12; sent == 0 && number < FULL; number++)
		sent = arrives_with(SLOT, LENGTH, number, numbers);
	CHECK_EQUAL(sent, 3);
	CHECK_EQUAL(numbers[0], 4);
	CHECK_EQUAL(numbers[1], 7);
	CHECK_EQUAL(numbers[2], 10);
	CHECK_EQUAL(worker->segment->merges[SLOT].hurried, 1);
	end();
}

/* What the next worker may not take for sent begins with the last frame before those that have not been written. */
static void test_what_is_in_hand(void)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = DESTINATION_PORT,
		.merge = { .stream = STREAM, .by = MERGE_RTP },
	};
	struct rule_output nowhere = { .socket = MCRD_NOWHERE, .counters = FIRST };
	uint32_t numbers[8];
	uint64_t last;

	check_about("in hand");
	begin();
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, &nowhere, 1, NULL, NULL, 0), 0);
	CHECK_EQUAL(arrives_with(SLOT, 20, 1, numbers), 0);
	CHECK_EQUAL(worker->segment->first_in_hand, now);
	last = now += 1000;
	CHECK_EQUAL(arrives_with(SLOT, 20, 2, numbers), 0);
	together = 1;
	now += 1000;
	CHECK_EQUAL(arrives_with(SLOT, 20, 3, numbers), 0);
	CHECK_EQUAL(worker->segment->first_in_hand, last);
	now += 1000;
	CHECK_EQUAL(arrives_with(SLOT, 20, 4, numbers), 0);
	CHECK_EQUAL(worker->segment->first_in_hand, last);
	together = 0;
	end();
}

/* What the other one holds leaves when it is due. */
static void test_a_stream_that_ends_beside_another(void)
{
	const uint64_t delay = 100000000;
	uint32_t numbers[8];

	check_about("two in order");
	begin();
	put_leg_of(STREAM, 0, delay, MCRD_NOWHERE);
	put_leg_of(STREAM + 1, 0, delay, MCRD_NOWHERE);
	CHECK_EQUAL(arrives_with(SLOT, 20, 1, numbers), 1);
	CHECK_EQUAL(arrives_with(SLOT + 1, 20, 1, numbers), 1);
	CHECK_EQUAL(arrives_with(SLOT + 1, 20, 3, numbers), 0);
	CHECK_EQUAL(worker_remove_rule(worker, SLOT), 0);
	worker->begun = 1;
	CHECK_EQUAL(held_expire(worker, 0, now + delay), 0);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 3);
	end();
}

/* What it brought first is still known. */
static void test_a_leg_that_goes(void)
{
	uint32_t numbers[8];

	check_about("a leg goes");
	begin();
	put_leg(0, 0, MCRD_NOWHERE);
	put_leg(1, 0, MCRD_NOWHERE);
	CHECK_EQUAL(arrives_with(SLOT, 20, 1, numbers), 1);
	CHECK_EQUAL(arrives_with(SLOT, 20, 2, numbers), 1);
	now -= 5000; /* by the clock of another CPU it comes before the first */
	CHECK_EQUAL(arrives_with(SLOT + 1, 20, 1, numbers), 0);
	CHECK_EQUAL(worker->segment->merges[SLOT + 1].skew_most, 0);
	now += 5000;
	CHECK_EQUAL(worker->segment->merges[SLOT].shared, 1);
	CHECK_EQUAL(arrives_with(SLOT, 20, 100, numbers), 1);
	now -= 1000; /* by the least that is told apart */
	CHECK_EQUAL(arrives_with(SLOT + 1, 20, 100, numbers), 0);
	now += 1000;
	CHECK_EQUAL(worker_remove_rule(worker, SLOT), 0);
	CHECK_EQUAL(arrives_with(SLOT + 1, 20, 2, numbers), 0);
	CHECK_EQUAL(arrives_with(SLOT + 1, 20, 3, numbers), 1);
	CHECK_EQUAL(worker->segment->merges[SLOT + 1].second, 3);
	end();
}

/* Its flows go with the format, and what they miss is lost. */
static void test_a_rule_that_looks_for_another_format(void)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = DESTINATION_PORT,
		.inspect = { .format = INSPECT_RTP },
	};
	struct rule_output output = { .socket = 0, .counters = SECOND };
	const struct inspect_counters *counters;
	uint32_t numbers[8];

	check_about("another format");
	begin();
	counters = &worker->segment->inspections[SLOT];
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, &output, 1, NULL, NULL, 0), 0);
	CHECK_EQUAL(arrives_with(SLOT, 20, 1, numbers), 1);
	CHECK_EQUAL(arrives_with(SLOT, 20, 3, numbers), 1);
	CHECK_EQUAL(counters->flows, 1);
	CHECK_EQUAL(counters->missing, 1);
	CHECK_EQUAL(counters->seen, now);
	match.last_port++; /* another form of it goes on */
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, &output, 1, NULL, NULL, 0), 0);
	CHECK_EQUAL(counters->flows, 1);
	CHECK_EQUAL(counters->missing, 1);
	match.inspect.format = INSPECT_MPEG_TS;
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, &output, 1, NULL, NULL, 0), 0);
	CHECK_EQUAL(counters->flows, 0);
	CHECK_EQUAL(counters->missing, 0);
	CHECK_EQUAL(counters->lost, 1);
	match.inspect.format = INSPECT_NOTHING;
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, &output, 1, NULL, NULL, 0), 0);
	CHECK_EQUAL(worker->inspected, 0);
	CHECK(!worker->rules.by_slot[SLOT]->inspector);
	end();
}

/* All outputs of one rule that go by members wait, and leave together. */
static void test_two_outputs_whose_member_comes_later(void)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = DESTINATION_PORT,
	};
	struct rule_output outputs[] = {
		{ .socket = MCRD_BY_MEMBER, .counters = FIRST }, { .socket = MCRD_BY_MEMBER, .counters = SECOND },
	};
	struct member_key key = { .slot = SLOT, .destination = match.first };
	const uint32_t sockets[] = { 0, 0 };

	check_about("two outputs, later");
	begin();
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, outputs, 2, NULL, NULL, 0), 0);
	CHECK_EQUAL(arrives(), 0);
	CHECK_EQUAL(worker_put_member(worker, &key, 0, sockets, 2), 0);
	CHECK_EQUAL(late_send(worker, worker_complete), 0);
	CHECK_EQUAL(of(FIRST)->traffic.packets, 1);
	CHECK_EQUAL(of(SECOND)->traffic.packets, 1);
	CHECK_EQUAL(of(SECOND)->waiting, 0);
	end();
}

/* A worker that was killed may have had a frame and not sent it; what comes later is no such frame. */
static void test_what_a_worker_before_may_not_have_sent(void)
{
	uint32_t numbers[8];

	check_about("what another worker had");
	begin();
	put_leg(0, 0, MCRD_NOWHERE);
	worker->began = now + 1000000;
	CHECK_EQUAL(arrives_with(SLOT, 20, 1, numbers), 1);
	CHECK_EQUAL(arrives_with(SLOT, 20, 1, numbers), 1);
	now += 1000;
	CHECK_EQUAL(arrives_with(SLOT, 20, 1, numbers), 0);
	CHECK_EQUAL(worker->segment->merges[SLOT].repeated, 1);
	end();
}

/* Of another stream, of a switch, of none: what a rule was a leg of before ends, and nothing is left of it. */
static void test_a_rule_that_is_a_leg_of_something_else(void)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = DESTINATION_PORT,
		.switches = { .silence = 1000000000, .copies = { .stream = 9 } },
	};
	struct rule_output output = { .socket = 0, .counters = SECOND };
	struct rule *const *rule;

	check_about("something else");
	begin();
	rule = &worker->rules.by_slot[SLOT];
	put_leg(0, 100000000, MCRD_NOWHERE);
	CHECK((*rule)->merge && (*rule)->merge->order && !(*rule)->switches);
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, &output, 1, NULL, NULL, 0), 0);
	CHECK(!(*rule)->merge && (*rule)->switches && !worker->merged);
	CHECK_EQUAL(worker->ordered, 0);
	put(&output);
	CHECK(!(*rule)->merge && !(*rule)->switches && !worker->switched);
	CHECK_EQUAL(hold_lasts(worker), 0); /* nor is it in a test for loops */
	CHECK_EQUAL(worker_remove_rule(worker, MCRD_RULE_SLOTS), -ENOENT);
	CHECK_EQUAL(worker_remove_rule(worker, SLOT + 1), -ENOENT);
	CHECK_EQUAL(worker_remove_rule(worker, SLOT), 0);
	end();
}

/* As the one before sent what came before this one began, or may not have: a frame of then is no repetition. */
static void test_a_worker_knows_when_it_began(void)
{
	const uint64_t before = now;
	uint32_t numbers[8];

	check_about("when it began");
	begin();
	put_leg(0, 0, MCRD_NOWHERE);
	now = pace_real_now() - 1000000000;
	CHECK_EQUAL(arrives_with(SLOT, 20, 1, numbers), 1);
	CHECK_EQUAL(arrives_with(SLOT, 20, 1, numbers), 1);
	now = pace_real_now();
	CHECK_EQUAL(arrives_with(SLOT, 20, 2, numbers), 1);
	CHECK_EQUAL(arrives_with(SLOT, 20, 2, numbers), 0);
	end();
	now = before;
}

/* A rule with a limit takes so many of a super-frame's datagrams. Whoever finds the segment knows which frame it was. */
static void test_a_frame_of_several_datagrams(void)
{
	enum { SIZE = 10, DATAGRAMS = 4, TAKEN = 3 };
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = DESTINATION_PORT,
		.packets_per_second = TAKEN,
	};
	struct rule_output output = { .socket = 0, .counters = SECOND };
	struct shape shape = { .family = 4, .payload = SIZE * DATAGRAMS - 1 };
	struct arrival arrival = { 0 };
	const struct at_work *work;
	uint8_t payload[FRAME_ROOM];
	struct built built;
	uint32_t count = 0;

	check_about("several datagrams");
	begin();
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, &output, 1, NULL, NULL, 0), 0);
	build(&shape, &built);
	arrival.here = &worker->interfaces[0];
	arrival.ring = &arrival.here->rings[1];
	arrival.frame.frame = (struct frame){
		.data = built.data, .captured = built.length, .length = built.length, .checksum_known = 1
	};
	arrival.frame.time = now;
	arrival.verdict = packet_parse(&arrival.frame.frame, &arrival.packet);
	arrival.frame.segment = arrival.size = SIZE;
	arrival.rule = worker->rules.by_slot[SLOT];
	CHECK_EQUAL(relay_frame(worker, &arrival), 0);
	work = &worker->segment->at_work;
	CHECK_EQUAL(work->datagrams, 0); /* nothing is in hand any more: this is of the last frame */
	CHECK_EQUAL(work->done, DATAGRAMS);
	CHECK_EQUAL(work->rule, SLOT);
	CHECK_EQUAL(work->bytes, built.length);
	CHECK_EQUAL(work->ring, 1);
	CHECK_EQUAL(egress_flush(&worker->egress, worker_complete, worker), 0);
	while (recv(receiver, payload, sizeof(payload), MSG_DONTWAIT) == SIZE)
		count++;
	CHECK_EQUAL(count, TAKEN);
	CHECK_EQUAL(worker->segment->rules[SLOT].traffic.packets, TAKEN);
	CHECK_EQUAL(worker->segment->rules[SLOT].rate_limited, DATAGRAMS - TAKEN);
	CHECK_EQUAL(worker->segment->interfaces[0].dropped[DROP_RATE_LIMITED], DATAGRAMS - TAKEN);
	CHECK_EQUAL(worker->segment->interfaces[0].traffic.packets, DATAGRAMS);
	CHECK_EQUAL(worker->segment->interfaces[0].datagrams[1], DATAGRAMS);
	end();
}

/* The new form is refused, and the old one is a leg of nothing by then. */
static void test_a_stream_in_order_for_which_there_is_no_room(void)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = DESTINATION_PORT, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = DESTINATION_PORT,
		.merge = { .stream = 1000, .delay = 100000000, .by = MERGE_RTP },
	};
	const uint32_t last = SLOT + MCRD_ORDERED_STREAMS;
	struct rule_output output = { .socket = 0, .counters = SECOND };
	uint32_t numbers[8], i;

	check_about("no room for a stream");
	begin();
	for (i = 0; i < MCRD_ORDERED_STREAMS; i++)
		put_leg_of(STREAM + i, 0, 100000000, MCRD_NOWHERE);
	put_leg_of(STREAM + i, 0, 0, MCRD_NOWHERE);
	CHECK_EQUAL(arrives_with(last, 20, 1, numbers), 1);
	CHECK_EQUAL(worker_put_rule(worker, last, &match, NULL, &output, 1, NULL, NULL, 0), -ENOSPC);
	CHECK(!worker->rules.by_slot[last]->merge);
	CHECK_EQUAL(worker->ordered, MCRD_ORDERED_STREAMS);
	end();
}

int main(void)
{
	test_an_output_without_its_member();
	test_a_member_that_comes_later();
	test_an_output_without_a_way();
	test_an_output_that_skips();
	test_so_many_outputs_that_skip();
	test_an_output_with_a_limit();
	test_frames_that_another_worker_has();
	test_a_stream_in_order();
	test_orders_one_after_the_other();
	test_an_order_without_room();
	test_what_is_in_hand();
	test_a_stream_that_ends_beside_another();
	test_a_leg_that_goes();
	test_two_outputs_whose_member_comes_later();
	test_what_a_worker_before_may_not_have_sent();
	test_a_rule_that_looks_for_another_format();
	test_a_rule_that_is_a_leg_of_something_else();
	test_a_worker_knows_when_it_began();
	test_a_frame_of_several_datagrams();
	test_a_stream_in_order_for_which_there_is_no_room();
	return check_result();
}
