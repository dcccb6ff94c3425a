/* The worker's one loop: a harvest of the rings, its sends, and the control channel, on one engine.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "arrival.h"
#include "backlog.h"
#include "counters.h"
#include "dedupe.h"
#include "held.h"
#include "hold.h"
#include "late.h"
#include "legs.h"
#include "meter.h"
#include "worker.h"

enum {
	HARVEST = 2048, /* frames that are released together */
	ERROR_PAUSE_NS = 20 * 1000 * 1000,
	MESSAGE_TRIES = 20, /* with pauses, 0.4 s: the supervisor gives a worker a second to answer */
	HOLD_LOOK_NS = 1000 * 1000,
};

/* What the worker's own operations are called by; 0 is nothing's. */
enum { DONE_MESSAGE = 1, DONE_READY, DONE_PAUSE };

/* Whether a receive that failed may do better a little later. */
static int may_pass(int result)
{
	return result == -ENOBUFS || result == -ENOMEM || result == -EAGAIN;
}

void worker_complete(void *context, const struct completion *done)
{
	struct worker *worker = context;

	if (answers_complete(&worker->answers, done))
		return;
	switch (done->what) {
	case DONE_MESSAGE:
		worker->waiting_message = 0;
		worker->message_failed = may_pass(done->result) ? worker->message_failed + 1 : 0;
		worker->message_done = !worker->message_failed || worker->message_failed == MESSAGE_TRIES;
		worker->message_length = done->result;
		break;
	case DONE_READY:
		worker->waiting_ready = 0;
		/* POLLERR without POLLIN would come back at once, until the supervisor has read SO_ERROR. */
		worker->pause = done->result < 0 || !(done->result & POLLIN) || (done->result & POLLERR);
		break;
	case DONE_PAUSE:
		worker->waiting_ready = 0;
		break;
	}
}

/* `member` is one that is open, or NULL. */
static int relay(struct worker *worker, struct rule *rule, const struct member *member, const struct packet *packet,
		 const uint8_t *payload, uint32_t length, uint64_t now)
{
	uint32_t i, next = 0;

	count(&rule->counters->traffic.packets, 1);
	count(&rule->counters->traffic.bytes, length);
	for (i = 0; i < rule->output_count; i++) {
		struct output *output = &rule->outputs[i];
		const struct output *to = output;
		int result;

		if (output->choice || output->socket >= MCRD_NOWHERE) {
			to = members_outlet(output, member, &next, packet->source, worker->egress.failed);
			if (!to)
				continue;
		}
		result = worker_send(worker, output, to, payload, length, now, worker_complete);
		if (result < 0)
			return result;
	}
	return 0;
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
	uint32_t at, size = arrival->size;

	for (at = 0; at == 0 || at < packet->payload_length; at += size) {
		uint32_t left = packet->payload_length - at;

		if (rule->inspector)
			inspect(rule->inspector, packet, packet->payload + at, left < size ? left : size, now);
		if (legs_drop(worker, arrival, standby, at))
			continue;
		if (rule->match.backlog) {
			int result = backlog_keep(worker, rule, packet, packet->payload + at, left < size ? left : size, now);

			if (result < 0)
				return result;
			continue;
		}
		count(&arrival->here->counters->dropped[DROP_STANDBY], 1);
		count(&rule->counters->standby, 1);
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
	uint32_t at = 0;
	int waits = 0, standby = legs_wait(worker, rule, now);

	meter_note(&rule->counters->meter, &rule->counters->traffic, &rule->window, now);
	worker->egress.time = now;
	guard_look(&worker->guard, frame, packet, here->settings->number, rule->slot, now, &whose);
	if (rule->member_outputs) {
		member = members_find(&worker->rules, rule, packet, now);
		waits = !member || member->state != MEMBER_OPEN;
	}
	do {
		uint32_t left = packet->payload_length - at;
		uint32_t length = left < size ? left : size;
		int copy, dropped;

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
			int result = backlog_keep(worker, rule, packet, packet->payload + at, length, now);

			if (result < 0)
				return result;
		} else {
			int ordered = rule->match.merge.delay && rule->merge && rule->merge->order, result;

			result = ordered ? held_take(worker, here->counters, rule, packet, packet->payload + at, length, now) :
					   0;
			if (result == 0)
				result = relay(worker, rule, waits ? NULL : member, packet, packet->payload + at, length,
					       now);
			if (result == 0 && ordered)
				result = held_send_due(worker, rule->merge->order);
			if (result < 0)
				return result;
			if (waits)
				member = members_wait(&worker->rules, rule, member, packet, packet->payload + at,
						      length, now);
		}
		at += size;
	} while (at < packet->payload_length);
	return 0;
}

static int relay_frame(struct worker *worker, struct arrival *arrival)
{
	static const enum drop drops[] = {
		[PACKET_FOREIGN] = DROP_UNMATCHED,         [PACKET_MALFORMED] = DROP_MALFORMED,
		[PACKET_BAD_CHECKSUM] = DROP_BAD_CHECKSUM, [PACKET_FRAGMENT] = DROP_FRAGMENT,
		[PACKET_TRUNCATED] = DROP_TRUNCATED,
	};
	struct interface *here = arrival->here;
	struct interface_counters *counters = here->counters;
	uint32_t size = arrival->size, datagrams = 1;

	/* A super-frame counts as the datagrams that it stands for. */
	if (arrival->packet.payload_length > size)
		datagrams = (arrival->packet.payload_length + size - 1) / size;
	here->datagrams[arrival->ring - here->rings] += datagrams;
	meter_note(&counters->meter, &counters->traffic, &here->window, arrival->frame.time);
	count(&counters->traffic.packets, datagrams);
	count(&counters->traffic.bytes, arrival->frame.frame.length);
	if (arrival->verdict == PACKET_DATAGRAM && arrival->rule)
		return arrival->rule->match.standby ? stand_by(worker, arrival) : relay_all(worker, arrival);
	count(&counters->dropped[arrival->verdict == PACKET_DATAGRAM ? arrival->drop : drops[arrival->verdict]],
	      datagrams);
	return 0;
}

/* Relays what is ready, up to a harvest. Returns the number of frames, or a negative errno. */
static int harvest(struct worker *worker)
{
	struct arrival arrivals[2], *arrival = arrivals, *next;
	int frames, result;
	uint32_t i;

	arrival->ring = NULL;
	for (frames = 0; worker->begun && frames < HARVEST && !worker->test.held; frames++) {
		if (!arrival->ring)
			arrival_look(worker, arrival);
		if (worker->test.began && (!arrival->ring || arrival->frame.time > worker->test.ends))
			hold_end(worker);
		if (!arrival->ring)
			break;
		ring_take(arrival->ring);
		worker->looked = arrival->frame.time;
		/* What the next one needs is on its way while this one is relayed. */
		next = &arrivals[(frames + 1) % 2];
		arrival_look(worker, next);
		result = relay_frame(worker, arrival);
		if (result < 0)
			return result;
		arrival = next;
	}
	worker->hurry = 0;
	if (frames == 0)
		return 0;
	worker->hurry = frames == HARVEST;
	for (i = 0; i < worker->settings.interface_count; i++) {
		struct ring *large = &worker->interfaces[i].rings[1];

		worker->hurry |= large->taken > large->frames / 4;
	}
	result = egress_flush(&worker->egress, worker_complete, worker);
	if (result < 0)
		return result;
	for (i = 0; i < worker->settings.interface_count; i++)
		interface_release(&worker->interfaces[i]);
	return frames;
}

static void wait_for_message(struct worker *worker)
{
	uint64_t pause = worker->message_failed ? ERROR_PAUSE_NS : 0;

	worker->message_data = (struct iovec){ worker->message, sizeof(worker->message) };
	worker->message_header = (struct msghdr){
		.msg_iov = &worker->message_data,
		.msg_iovlen = 1,
		.msg_control = worker->ancillary,
		.msg_controllen = sizeof(worker->ancillary),
	};
	worker->waiting_message = 1;
	worker->engine.calls->await_message(&worker->engine, &worker->message_header, DONE_MESSAGE, pause);
}

static void wait_for_frames(struct worker *worker)
{
	if (worker->pause)
		worker->engine.calls->pause(&worker->engine, DONE_PAUSE, ERROR_PAUSE_NS);
	else
		worker->engine.calls->await_frames(&worker->engine, DONE_READY);
	worker->pause = 0;
	worker->waiting_ready = 1;
}

static void take_completions(struct worker *worker)
{
	struct completion done;

	while (worker->engine.calls->look(&worker->engine, &done))
		worker_complete(worker, &done);
}

/* Waits for whatever comes first: frames, when the rate is low; the time of the next harvest, when it is high; a
 * message. With `busy_poll` it does not wait. */
static int wait_for_more(struct worker *worker, uint64_t began, uint32_t frames)
{
	const struct engine_calls *calls = worker->engine.calls;
	uint64_t now = pace_now(), sleep, late;
	int result;

	if (worker->test.held) {
		result = calls->wait(&worker->engine, HOLD_LOOK_NS);
	} else if (worker->settings.busy_poll && worker->begun) {
		result = calls->submit(&worker->engine);
	} else if (pace_note(&worker->pace, now, frames, *worker->egress.sent, worker->egress.runs_so_far)) {
		sleep = worker->hurry ? 0 : pace_sleep(&worker->pace, began, now);
		if (sleep == 0)
			return 0;
		result = calls->wait(&worker->engine, sleep);
	} else if (frames > 0) {
		return 0; /* look once more before a wait */
	} else {
		if (!worker->waiting_ready && worker->begun)
			wait_for_frames(worker);
		late = held_sleep(worker, members_sleep(&worker->rules));
		if (worker->backlog)
			late = backlog_sleep(worker, late);
		result = calls->wait(&worker->engine, late);
	}
	return result;
}

/* Relays until the supervisor says something. Returns the length of the message, 0 when the supervisor has
 * gone, or a negative errno. */
int worker_run(struct worker *worker)
{
	for (;;) {
		uint64_t began = pace_now(), now;
		int frames = 0, result;

		if (!worker->waiting_message && !worker->message_done)
			wait_for_message(worker);
		worker->rules.now = began;
		members_expire(&worker->rules);
		if (!hold_lasts(worker)) {
			result = late_send(worker, worker_complete);
			if (result < 0)
				return result;
			now = worker->ordered ? pace_real_now() : 0;
			frames = harvest(worker);
			result = frames >= 0 && worker->ordered ? held_expire(worker, frames == HARVEST, now) : frames;
			if (result >= 0 && worker->backlog)
				result = backlog_send(worker, pace_real_now());
			if (result < 0)
				return result;
		}
		if (worker->answers.queue.count > 0) {
			result = answers_take(&worker->answers, pace_real_now(), worker_complete, worker);
			if (result < 0)
				return result;
		}
		members_ask(&worker->rules);
		if (worker->rules.wanted_count > 0 || worker->answers.unknown_count > 0)
			return MCRD_WANTS;
		if (!worker->message_done && worker->answers.queue.count == 0) {
			result = wait_for_more(worker, began, (uint32_t)frames);
			if (result < 0)
				return result;
		}
		take_completions(worker);
		if (worker->message_done) {
			worker->message_done = 0;
			if (worker->message_length <= 0 && worker->ordered)
				held_send_all(worker);
			if (worker->message_length <= 0 && worker->backlog)
				backlog_send_all(worker);
			if (worker->message_length > 0 && worker->message_header.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
				return -EMSGSIZE;
			return worker->message_length;
		}
	}
}
