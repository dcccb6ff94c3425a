/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "answers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "counters.h"

enum { GENERATIONS = 1 << 28 };

int answers_init(struct answers *answers, struct egress *egress)
{
	answers->engine = egress->engine;
	answers->egress = egress;
	answers->places = egress->places;
	answers->ports = calloc(answers->places, sizeof(*answers->ports));
	answers->queue.places = calloc(answers->places, sizeof(*answers->queue.places));
	answers->line.places = calloc(answers->places, sizeof(*answers->line.places));
	answers->heard.places = calloc(answers->places, sizeof(*answers->heard.places));
	answers->buffers = calloc(ANSWERS_AT_ONCE, ANSWERS_BYTES);
	/* None of it takes memory before it is used. */
	if (!answers->ports || !answers->queue.places || !answers->line.places || !answers->heard.places ||
	    !answers->buffers)
		return -ENOMEM;
	return limit_init(&answers->asks, ANSWERS_UNKNOWN_A_SECOND);
}

static void forget(struct answers_port *port)
{
	while (port->known) {
		struct answerer *next = port->known->next;

		free(port->known);
		port->known = next;
	}
	port->known_count = 0;
}

void answers_free(struct answers *answers)
{
	uint32_t i;

	for (i = 0; answers->ports && i < answers->places; i++)
		forget(&answers->ports[i]);
	free(answers->ports);
	free(answers->queue.places);
	free(answers->line.places);
	free(answers->heard.places);
	free(answers->buffers);
	limit_free(&answers->asks);
}

static uint64_t poll_of(const struct answers *answers, uint32_t place)
{
	return ANSWERS_POLL | (uint64_t)answers->ports[place].generation << 32 | place;
}

static int poll_port(struct answers *answers, uint32_t place)
{
	int result = answers->engine->calls->listen(answers->engine, egress_file(answers->egress, place),
						    poll_of(answers, place));

	answers->ports[place].polled = result == 0;
	return result;
}

int answers_listen(struct answers *answers, uint32_t place, const struct output *to, const uint64_t *asked,
		   uint64_t within, int keeps)
{
	struct answers_port *port = &answers->ports[place];

	forget(port);
	port->listens = 1;
	port->keeps = keeps != 0;
	port->to = *to;
	port->asked = asked;
	port->within = within;
	return port->polled ? 0 : poll_port(answers, place);
}

static void append(struct answers *answers, struct answers_queue *queue, uint32_t place)
{
	queue->places[(queue->head + queue->count++) % answers->places] = place;
}

static uint32_t take_first(struct answers *answers, struct answers_queue *queue)
{
	uint32_t place = queue->places[queue->head];

	queue->head = (queue->head + 1) % answers->places;
	queue->count--;
	return place;
}

static void enqueue(struct answers *answers, uint32_t place)
{
	struct answers_port *port = &answers->ports[place];

	if (port->queued)
		return;
	port->queued = 1;
	append(answers, port->overhears ? &answers->heard : &answers->queue, place);
}

static int may_ask(const struct answers *answers)
{
	return answers->asking < ANSWERS_UNKNOWN && answers->unknown_count < ANSWERS_UNKNOWN;
}

/* Looks again at as many of those in the line as may ask now. */
static void wake(struct answers *answers)
{
	while (answers->line.count > 0 && may_ask(answers) && answers->asking + answers->woken < ANSWERS_UNKNOWN) {
		uint32_t place = take_first(answers, &answers->line);
		struct answers_port *port = &answers->ports[place];

		port->in_line = 0;
		if (!port->held || port->asking)
			continue;
		port->held = 0;
		answers->woken += !port->woken;
		port->woken = 1;
		enqueue(answers, place);
	}
}

/* The supervisor has answered, or the port ends: it may be looked at again, and so may one that had to wait for that. */
static void resume(struct answers *answers, uint32_t place)
{
	struct answers_port *port = &answers->ports[place];

	answers->asking -= port->asking;
	port->asking = port->held = 0;
	wake(answers);
}

int answers_end(struct answers *answers, uint32_t place)
{
	struct answers_port *port = &answers->ports[place];
	int result = 0;

	if (port->listens)
		result = answers->engine->calls->end_listening(answers->engine, egress_file(answers->egress, place),
							       poll_of(answers, place), port->polled, EGRESS_CANCEL);
	if (result < 0)
		return result;
	port->listens = port->keeps = port->polled = 0;
	port->overhears = 0;
	resume(answers, place);
	forget(port);
	port->generation = (port->generation + 1) % GENERATIONS;
	return 0;
}

int answers_complete(struct answers *answers, const struct completion *done)
{
	uint32_t place = (uint32_t)done->what;

	if (done->what & ANSWERS_POLL) {
		/* One that failed is looked at too, and polled again. */
		if (done->what == poll_of(answers, place)) {
			answers->ports[place].polled = 0;
			enqueue(answers, place);
		}
		return 1;
	}
	if (done->what & ANSWERS_RECEIVE) {
		answers->results[place] = done->result;
		answers->pending--;
		return 1;
	}
	return 0;
}

/* Places of the queue at which somebody listens. */
static uint32_t dequeue(struct answers *answers, uint32_t *places)
{
	uint32_t found = 0;

	while (answers->queue.count > 0 && found < ANSWERS_AT_ONCE) {
		uint32_t place = take_first(answers, &answers->queue);
		struct answers_port *port = &answers->ports[place];

		answers->woken -= port->woken;
		port->queued = port->woken = 0;
		if (port->overhears)
			enqueue(answers, place);
		else if (port->listens)
			places[found++] = place;
	}
	return found;
}

/* `taken`: those of them that were looked at and can go now; NULL: all are received, or looked at where they are to stay. */
static int receive(struct answers *answers, const uint32_t *places, uint32_t count, const uint8_t *taken,
		   egress_other *other, void *context)
{
	struct engine *engine = answers->engine;
	struct completion done;
	int result;
	uint32_t i;

	for (i = 0; i < count; i++) {
		int stays = !taken && answers->ports[places[i]].keeps;

		if (taken && !taken[i])
			continue;
		answers->vectors[i] =
			(struct iovec){ answers->buffers + (size_t)i * ANSWERS_BYTES, taken ? 0 : ANSWERS_BYTES };
		answers->headers[i] = (struct msghdr){
			.msg_name = &answers->names[i],
			.msg_namelen = sizeof(answers->names[i]),
			.msg_iov = &answers->vectors[i],
			.msg_iovlen = 1,
		};
		result = engine->calls->receive(engine, egress_file(answers->egress, places[i]), &answers->headers[i],
						MSG_DONTWAIT | (stays ? MSG_PEEK : 0), ANSWERS_RECEIVE | i,
						&answers->results[i]);
		if (result < 0)
			return result;
		answers->pending += (uint32_t)result;
	}
	while (answers->pending > 0) {
		result = engine->calls->finish(engine, 1);
		if (result < 0)
			return result;
		while (engine->calls->next(engine, &done))
			other(context, &done);
	}
	return 0;
}

static struct endpoint endpoint_of(const struct sockaddr_in6 *name)
{
	struct endpoint who = { .family = 6, .port = ntohs(name->sin6_port) };
	struct sockaddr_in four;

	if (name->sin6_family == AF_INET6) {
		memcpy(who.address, &name->sin6_addr, 16);
		return who;
	}
	memcpy(&four, name, sizeof(four));
	who.family = 4;
	who.port = ntohs(four.sin_port);
	memcpy(who.address, &four.sin_addr, 4);
	return who;
}

static struct answerer *find(const struct answers_port *port, const struct endpoint *who)
{
	struct answerer *known;

	for (known = port->known; known; known = known->next)
		if (known->who.port == who->port && known->who.family == who->family &&
		    memcmp(known->who.address, who->address, sizeof(who->address)) == 0)
			break;
	return known;
}

/* Asks whose the first answer of the port is, now or when others ask no more; 0: there were too many in this second. */
static int ask(struct answers *answers, uint32_t place, uint64_t now)
{
	struct answers_port *port = &answers->ports[place];

	if (port->asking)
		return 1;
	if (!may_ask(answers)) {
		if (!port->in_line)
			append(answers, &answers->line, place);
		port->in_line = port->held = 1;
		return 1;
	}
	if (!limit_pass(&answers->asks, now))
		return 0;
	port->held = port->asking = 1;
	answers->asking++;
	answers->unknown[answers->unknown_count++] = place;
	return 1;
}

int64_t answers_next_unknown(struct answers *answers)
{
	while (answers->unknown_count > 0) {
		uint32_t place = answers->unknown[--answers->unknown_count];

		if (answers->ports[place].asking)
			return place;
	}
	return -1;
}

int answers_tell(struct answers *answers, uint32_t place, const struct endpoint *who, uint32_t socket)
{
	struct answers_port *port = &answers->ports[place];
	struct answerer *known = who->family ? find(port, who) : NULL;
	int result = 0;

	if (who->family && port->keeps && !known && port->known_count < ANSWERERS_AT_MOST) {
		known = calloc(1, sizeof(*known));
		if (known) {
			known->who = *who;
			known->next = port->known;
			port->known = known;
			port->known_count++;
		}
		result = known ? 0 : -ENOMEM;
	}
	if (known) {
		known->to = (struct output){ .socket = socket, .counters = port->to.counters };
		known->refused = answers->now;
	}
	resume(answers, place);
	if (port->listens)
		enqueue(answers, place);
	return result;
}

/* Where what was received goes; 0: it stays where it is until the supervisor has answered. */
static int find_outlet(struct answers *answers, uint32_t place, const struct sockaddr_in6 *from, uint64_t now,
		       const struct output **to)
{
	struct answers_port *port = &answers->ports[place];
	struct endpoint who;
	struct answerer *known;

	*to = &port->to;
	if (!port->keeps)
		return 1;
	who = endpoint_of(from);
	known = find(port, &who);
	*to = known && known->to.socket != MCRD_NOWHERE ? &known->to : NULL;
	if (*to)
		return 1;
	/* A clock that was set back only makes it ask sooner. */
	if (known ? now - known->refused < ANSWERERS_AGAIN : port->known_count >= ANSWERERS_AT_MOST)
		return 1;
	return !ask(answers, place, now);
}

/* What became of a receive; 1 when the answer is dealt with. */
static int pass_on(struct answers *answers, uint32_t place, uint32_t i, uint64_t now, int *result, egress_other *other,
		   void *context)
{
	const struct answers_port *port = &answers->ports[place];
	const struct output *to;
	int length = answers->results[i];

	if (length < 0) {
		/* What an earlier question drew, and nothing is there: udp(7). */
		if (length != -EAGAIN && length != -EINTR)
			count(&port->to.counters->refused, 1);
		return 0;
	}
	if (now > *port->asked && now - *port->asked > port->within)
		count(&port->to.counters->late, 1);
	else if (!find_outlet(answers, place, &answers->names[i], now, &to))
		return 0;
	else if (!to)
		count(&port->to.counters->dropped.new_member, 1);
	else
		*result = egress_add(answers->egress, to, answers->buffers + (size_t)i * ANSWERS_BYTES, (uint32_t)length,
				     other, context);
	return 1;
}

int answers_take(struct answers *answers, uint64_t now, egress_other *other, void *context)
{
	uint32_t places[ANSWERS_AT_ONCE] = { 0 }, batch = dequeue(answers, places), i;
	uint8_t taken[ANSWERS_AT_ONCE] = { 0 }, stayed = 0;
	int result = receive(answers, places, batch, NULL, other, context);

	answers->egress->time = answers->now = now;
	for (i = 0; i < batch && result >= 0; i++)
		if (pass_on(answers, places[i], i, now, &result, other, context))
			stayed |= taken[i] = answers->ports[places[i]].keeps;
	if (result >= 0)
		result = egress_flush(answers->egress, other, context);
	if (result >= 0 && stayed)
		result = receive(answers, places, batch, taken, other, context);
	for (i = 0; i < batch && result >= 0; i++)
		if (!answers->ports[places[i]].polled && !answers->ports[places[i]].held)
			result = poll_port(answers, places[i]);
	wake(answers); /* some that were woken may not have asked */
	return result;
}

int answers_overhear(struct answers *answers, uint32_t place, uint32_t slot)
{
	struct answers_port *port = &answers->ports[place];

	port->listens = 1;
	port->overhears = slot + 1;
	return port->polled || port->queued ? 0 : poll_port(answers, place);
}

void answers_tell_of(struct answers *answers, uint32_t place, uint32_t slot)
{
	answers->ports[place].overhears = slot + 1;
}

int answers_are_behind(const struct answers *answers, uint32_t place)
{
	return answers->ports[place].queued;
}

/* Receives what is there at one place, in so many rounds at most, of which it leaves what it does not need. 1: all of it. */
static int hear_at(struct answers *answers, uint32_t place, uint32_t *rounds, answers_told *told, egress_other *other,
		   void *context)
{
	uint32_t places[ANSWERS_AT_ONCE], slot = answers->ports[place].overhears - 1, count = 4, i;
	int result;

	for (i = 0; i < ANSWERS_AT_ONCE; i++)
		places[i] = place;
	while (*rounds > 0) {
		--*rounds;
		result = receive(answers, places, count, NULL, other, context);
		if (result < 0)
			return result;
		/* More may have come after one that found nothing. */
		for (i = 0; i < count; i++)
			if (answers->results[i] >= 0)
				told(context, place, slot, answers->buffers + (size_t)i * ANSWERS_BYTES,
				     (uint32_t)answers->results[i]);
		if (answers->results[count - 1] < 0)
			return 1;
		count = ANSWERS_AT_ONCE;
	}
	return 0;
}

int answers_hear(struct answers *answers, answers_told *told, egress_other *other, void *context)
{
	uint32_t left, rounds = OVERHEARD_AT_ONCE;

	for (left = answers->heard.count; left > 0 && rounds > 0; left--) {
		uint32_t place = take_first(answers, &answers->heard);
		struct answers_port *port = &answers->ports[place];
		int result;

		port->queued = 0;
		if (!port->overhears) {
			if (port->listens)
				enqueue(answers, place); /* it is an asker's by now */
			continue;
		}
		result = hear_at(answers, place, &rounds, told, other, context);
		if (result == 0)
			enqueue(answers, place);
		else if (result > 0)
			result = poll_port(answers, place);
		if (result < 0)
			return result;
	}
	return 0;
}
