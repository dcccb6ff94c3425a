/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "relay.h"

#include <string.h>

#include "backlog.h"
#include "counters.h"
#include "dedupe.h"
#include "held.h"
#include "legs.h"
#include "meter.h"

/* `member` is one that is open, or NULL. */
static int relay(struct worker *worker, struct rule *rule, const struct member *member, const struct packet *packet,
		 const uint8_t *payload, uint32_t length, uint64_t now)
{
	struct at_work *work = &worker->segment->at_work;
	uint32_t i, next = 0;

	/* Before the outputs: so whoever sees which have it, after a crash, knows that it is received. */
	count(&rule->counters->traffic.packets, 1);
	count(&rule->counters->traffic.bytes, length);
	for (i = 0; i < rule->output_count; i++) {
		struct output *output = &rule->outputs[i];
		const struct output *to = output;
		int result;

		__atomic_store_n(&work->given, i + 1, __ATOMIC_RELEASE);
		if (output->choice || output->socket >= MCRD_NOWHERE) {
			to = members_outlet(output, member, &next, packet->source, worker->egress.failed);
			if (!to)
				continue;
		}
		result = worker_send(worker, output, to, payload, length, now, worker_complete);
		if (result < 0)
			return result;
	}
	__atomic_store_n(&work->given, i + 1, __ATOMIC_RELEASE);
	return 0;
}

/* The frame that is dealt with is one of a rule's. What it is needs one store or two, of a line that stays in the cache. */
static void set_to_work(struct worker *worker, const struct arrival *arrival, uint32_t datagrams)
{
	worker->segment->at_work = (struct at_work){
		.datagrams = datagrams,
		.rule = arrival->rule->slot,
		.bytes = arrival->frame.frame.length,
		.ring = (uint32_t)(arrival->ring - arrival->here->rings),
	};
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* So many of its datagrams are in counters. */
static void set_done(struct worker *worker, uint32_t done)
{
	struct at_work *work = &worker->segment->at_work;

	__atomic_store_n(&work->done, done, __ATOMIC_RELEASE);
	__atomic_store_n(&work->given, 0, __ATOMIC_RELEASE);
}

/* It comes back: who brings it is noted, for people. */
static void drop_returned(struct interface *here, struct rule *rule, const struct frame *frame,
			  const struct packet *packet, enum drop drop)
{
	struct returner *returner = &rule->counters->returner;

	count(&here->counters->dropped[drop], 1);
	count(drop == DROP_LOOPED ? &rule->counters->looped : &rule->counters->cut_off, 1);
	returner->family = packet->family;
	memcpy(returner->address, packet->source, packet->family == 6 ? 16 : 4);
	if (frame->link == LINK_ETHERNET)
		memcpy(returner->hardware, frame->data + 6, sizeof(returner->hardware));
}

/* Does it come back? Then it is dropped, and counted. */
static int returns(struct worker *worker, struct interface *here, struct rule *rule, const struct guard_frame *whose,
		   const struct frame *frame, const struct packet *packet, const uint8_t *payload, uint32_t length, uint64_t time)
{
	enum guard_answer answer = guard_ask(&worker->guard, whose, payload, length);
	struct breaker_test *test = &worker->test;
	uint32_t known;

	if (answer == GUARD_LOOPED) {
		drop_returned(here, rule, frame, packet, DROP_LOOPED);
		return 1;
	}
	if (answer != GUARD_PASS && breaker_is_cut(&rule->breaker, whose->now)) {
		drop_returned(here, rule, frame, packet, DROP_CUT_OFF);
		return 1;
	}
	if (test->began && answer != GUARD_PASS && test->rule == rule->slot)
		breaker_came(test, time);
	known = breaker_note(&rule->breaker, answer != GUARD_PASS, whose->now);
	if (known && !test->began)
		breaker_begin(test, rule->slot, known, pace_real_now());
	return 0;
}

/* Is it a payload that the rule has relayed just before? Then it is dropped, and counted. */
static int repeats(struct worker *worker, struct interface *here, struct rule *rule, const struct guard_frame *whose,
		   const uint8_t *payload, uint32_t length)
{
	if (!dedupe_knows(&worker->guard, rule, whose, payload, length))
		return 0;
	count(&here->counters->dropped[DROP_DUPLICATE], 1);
	count(&rule->counters->duplicate, 1);
	return 1;
}

/* Another host relays what this frame stands for: it is looked at, and kept or counted. */
static int stand_by(struct worker *worker, struct arrival *arrival)
{
	const struct packet *packet = &arrival->packet;
	struct rule *rule = arrival->rule;
	uint64_t now = arrival->frame.time;
	int standby = legs_wait(worker, rule, now);
	uint32_t at, done = 0, size = arrival->size;

	for (at = 0; at == 0 || at < packet->payload_length; at += size) {
		uint32_t left = packet->payload_length - at;

		if (rule->inspector)
			inspect(rule->inspector, packet, packet->payload + at, left < size ? left : size, now);
		if (legs_drop(worker, arrival, standby, at)) {
			/* counted */
		} else if (rule->match.backlog) {
			int result = backlog_keep(worker, rule, packet, packet->payload + at, left < size ? left : size, now);

			if (result < 0)
				return result;
		} else {
			count(&arrival->here->counters->dropped[DROP_STANDBY], 1);
			count(&rule->counters->standby, 1);
		}
		set_done(worker, ++done);
	}
	return 0;
}

/* One frame, which may stand for several datagrams. */
static int relay_all(struct worker *worker, struct arrival *arrival)
{
	const struct packet *packet = &arrival->packet;
	const struct frame *frame = &arrival->frame.frame;
	struct interface *here = arrival->here;
	struct rule *rule = arrival->rule;
	uint32_t size = arrival->size;
	uint64_t now = arrival->frame.time;
	struct member *member = NULL;
	struct guard_frame whose;
	uint32_t at = 0, done = 0;
	int waits = 0, standby = legs_wait(worker, rule, now);

	meter_note(&rule->counters->meter, &rule->counters->traffic, &rule->window, now);
	worker->egress.time = now;
	guard_look(&worker->guard, frame, packet, here->settings->number, rule->slot, now, &whose);
	if (rule->member_outputs) {
		member = members_find(&worker->rules, rule, packet, now);
		waits = !member || member->state != MEMBER_OPEN;
		worker->segment->at_work.waits = (uint32_t)waits;
	}
	do {
		uint32_t left = packet->payload_length - at;
		uint32_t length = left < size ? left : size;
		int copy, dropped, ordered = 0, result = 0;

		guard_next(&worker->guard, &whose, packet->payload + at, left, size);
		copy = legs_drop(worker, arrival, standby, at);
		dropped = copy ||
			  (rule->match.dedupe && repeats(worker, here, rule, &whose, packet->payload + at, length)) ||
			  returns(worker, here, rule, &whose, frame, packet, packet->payload + at, length, now);

		if (rule->inspector && (copy || !dropped))
			inspect(rule->inspector, packet, packet->payload + at, length, now);
		if (dropped) {
			/* counted */
		} else if (!limit_pass(&rule->limit, now)) {
			count(&here->counters->dropped[DROP_RATE_LIMITED], 1);
			count(&rule->counters->rate_limited, 1);
		} else if (rule->takes_over) {
			result = backlog_keep(worker, rule, packet, packet->payload + at, length, now);
		} else {
			ordered = rule->match.merge.delay && rule->merge && rule->merge->order;
			result = ordered ? held_take(worker, here->counters, rule, packet, packet->payload + at, length, now) :
					   0;
			ordered &= result == 0;
			if (result == 0)
				result = relay(worker, rule, waits ? NULL : member, packet, packet->payload + at, length,
					       now);
			if (result == 0 && waits)
				member = members_wait(&worker->rules, rule, member, packet, packet->payload + at,
						      length, now);
		}
		if (result < 0)
			return result; /* the worker ends: what outputs lack of this one is counted then */
		set_done(worker, ++done);
		if (ordered)
			result = held_send_due(worker, rule->merge->order);
		if (result < 0)
			return result;
		at += size;
	} while (at < packet->payload_length);
	return 0;
}

/* While other rings take the place of old ones, both get each frame, with one time of arrival: it is relayed, and
 * counted, by one of the two workers. What the kernel has put together from fragments is in the new rings alone, since
 * each fragment comes to them first (net/ipv4/ip_fragment.c: one queue for all packet sockets). That is what is no
 * super-frame, and has no room in a slot of the first ring. */
static int is_of_another(const struct worker *worker, const struct arrival *arrival)
{
	enum { HEADERS = 90, ETHERNET = 14 }; /* before the packet in a slot: SLOT_HEADERS in sockets/ingress.py */
	const struct frame *frame = &arrival->frame.frame;
	uint32_t room, link = frame->link == LINK_ETHERNET ? ETHERNET : 0;

	if (arrival->frame.time >= worker->until)
		return 1;
	if (arrival->frame.time >= worker->since)
		return 0;
	room = arrival->here->rings[0].geometry.frame_size - HEADERS;
	return arrival->frame.segment || frame->length <= room + link;
}

/* One frame of this worker's, which stands for so many datagrams. */
static int take(struct worker *worker, struct arrival *arrival, uint32_t datagrams)
{
	static const enum drop drops[] = {
		[PACKET_FOREIGN] = DROP_UNMATCHED,         [PACKET_MALFORMED] = DROP_MALFORMED,
		[PACKET_BAD_CHECKSUM] = DROP_BAD_CHECKSUM, [PACKET_FRAGMENT] = DROP_FRAGMENT,
		[PACKET_TRUNCATED] = DROP_TRUNCATED,
	};
	struct interface_counters *counters = arrival->here->counters;
	int result = 0;

	meter_note(&counters->meter, &counters->traffic, &arrival->here->window, arrival->frame.time);
	if (arrival->verdict == PACKET_DATAGRAM && arrival->rule) {
		set_to_work(worker, arrival, datagrams);
		result = arrival->rule->match.standby ? stand_by(worker, arrival) : relay_all(worker, arrival);
	} else {
		count(&counters->dropped[arrival->verdict == PACKET_DATAGRAM ? arrival->drop : drops[arrival->verdict]],
		      datagrams);
	}
	if (result < 0)
		return result;
	count(&counters->traffic.packets, datagrams);
	count(&counters->traffic.bytes, arrival->frame.frame.length);
	return result;
}

int relay_frame(struct worker *worker, struct arrival *arrival)
{
	struct interface_counters *counters = arrival->here->counters;
	ptrdiff_t which = arrival->ring - arrival->here->rings;
	uint32_t size = arrival->size, datagrams = 1;
	int result = 0;

	/* A super-frame counts as the datagrams that it stands for. */
	if (arrival->packet.payload_length > size)
		datagrams = (arrival->packet.payload_length + size - 1) / size;
	if (!is_of_another(worker, arrival))
		result = take(worker, arrival, datagrams);
	if (result < 0)
		return result;
	/* Last: one that makes the worker crash is not among them. */
	__atomic_store_n(&worker->segment->at_work.datagrams, 0, __ATOMIC_RELEASE);
	count(&counters->datagrams[which], datagrams);
	count(&counters->taken[which], 1);
	return result;
}
