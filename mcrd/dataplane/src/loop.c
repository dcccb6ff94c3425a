/* The worker's one loop: a harvest of the rings, its sends, and the control channel, on one engine.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "arrival.h"
#include "backlog.h"
#include "counters.h"
#include "held.h"
#include "hold.h"
#include "late.h"
#include "relay.h"
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
		if (arrival->frame.time >= worker->until && !worker->passes_over) {
			worker_pause(worker);
			break;
		}
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
	__atomic_store_n(&worker->segment->first_in_hand, 0, __ATOMIC_RELAXED);
	for (i = 0; i < worker->settings.interface_count; i++)
		interface_release(&worker->interfaces[i]);
	return frames;
}

static int wait_for_message(struct worker *worker)
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
	return worker->engine.calls->await_message(&worker->engine, &worker->message_header, DONE_MESSAGE, pause);
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

static int take_completions(struct worker *worker)
{
	struct completion done;
	int result;

	while ((result = worker->engine.calls->look(&worker->engine, &done)) > 0)
		worker_complete(worker, &done);
	return result;
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
		int frames = 0, held, result;

		if (!worker->waiting_message && !worker->message_done) {
			result = wait_for_message(worker);
			if (result < 0)
				return result;
		}
		worker->rules.now = began;
		members_expire(&worker->rules);
		held = hold_lasts(worker);
		if (!held) {
			result = late_send(worker, worker_complete);
			if (result < 0)
				return result;
			now = worker->ordered ? pace_real_now() : 0;
			frames = harvest(worker);
			result = frames >= 0 && worker->ordered ? held_expire(worker, frames == HARVEST, now) : frames;
			if (result < 0)
				return result;
		}
		/* The time before it is received: a host that is not heard by then is silent. */
		now = worker->backlog ? pace_real_now() : 0;
		if (worker->answers.heard.count > 0) {
			result = answers_hear(&worker->answers, backlog_overhear, worker_complete, worker);
			if (result < 0)
				return result;
		}
		if (worker->backlog && !held) {
			result = backlog_send(worker, now);
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
		if (!worker->message_done && worker->answers.queue.count == 0 && worker->answers.heard.count == 0) {
			result = wait_for_more(worker, began, (uint32_t)frames);
			if (result < 0)
				return result;
		}
		result = take_completions(worker);
		if (result < 0)
			return result;
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
