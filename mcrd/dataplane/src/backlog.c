/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "backlog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "counters.h"
#include "kept.h"

/* Of a rule, by its slot. The source of a datagram stands before its payload, for outputs that choose. */
struct backlog_rule {
	struct waiting_queue queue;
	struct backlog_rule *next; /* of those that take over */
	uint64_t for_ns;           /* how long it keeps what came */
	uint64_t from, began;      /* what came at `from` is due at `began`: both in ns, CLOCK_REALTIME */
	uint32_t slot;
	uint32_t takes_over;
};

struct backlog {
	struct waiting waiting;
	struct backlog_rule *taking_over;
	struct backlog_rule rules[MCRD_RULE_SLOTS];
};

enum {
	SOURCE = 16,
	AT_ONCE = 512,             /* datagrams that are written together */
	APART_NS = 1000 * 1000,    /* what is due within it leaves together: so the worker wakes at most so often */
	CLOCK_SET_NS = 1000 * 1000 * 1000,
};

static void count_standby(struct worker *worker, const struct rule *rule, uint64_t datagrams)
{
	count(&worker->segment->interfaces[rule->match.interface].dropped[DROP_STANDBY], datagrams);
	count(&rule->counters->standby, datagrams);
}

/* The first datagram of the rule is neither kept any more nor sent. */
static void drop_first(struct worker *worker, struct backlog_rule *its)
{
	const struct rule *rule = worker->rules.by_slot[its->slot];

	waiting_end(&worker->backlog->waiting, &its->queue);
	if (!rule)
		return;
	count(&rule->counters->backlog, (uint64_t)-1);
	count_standby(worker, rule, 1);
}

static uint64_t age_of(const struct waiting_packet *packet, uint64_t now)
{
	if (now >= packet->since)
		return now - packet->since;
	return packet->since - now > CLOCK_SET_NS ? UINT64_MAX : 0; /* the clock has been set back */
}

static void leave(struct backlog *backlog, struct backlog_rule *its)
{
	struct backlog_rule **at;

	if (!its->takes_over)
		return;
	its->takes_over = 0;
	for (at = &backlog->taking_over; *at != its; at = &(*at)->next)
		;
	*at = its->next;
}

int backlog_prepare(struct worker *worker, const struct rule_match *match)
{
	struct backlog *backlog;

	if (match->backlog == 0 || worker->backlog)
		return 0;
	backlog = calloc(1, sizeof(*backlog));
	if (!backlog || waiting_init(&backlog->waiting, MCRD_BACKLOG_BYTES) < 0) {
		free(backlog);
		return -ENOMEM;
	}
	worker->backlog = backlog;
	return 0;
}

void backlog_begin(struct worker *worker, struct rule *rule)
{
	struct backlog_rule *its = worker->backlog ? &worker->backlog->rules[rule->slot] : NULL;
	uint64_t now = pace_real_now();

	if (!its || !its->queue.first) {
		/* A worker before this one had it. */
		count_standby(worker, rule, rule->counters->backlog);
		count(&rule->counters->backlog, -rule->counters->backlog);
	}
	if (!its)
		return;
	its->slot = rule->slot;
	its->for_ns = rule->match.backlog;
	if (rule->match.standby) {
		leave(worker->backlog, its);
		return;
	}
	while (!its->takes_over && its->queue.first && age_of(its->queue.first, now) > its->for_ns)
		drop_first(worker, its);
	if (its->queue.first && !its->takes_over) {
		its->takes_over = 1;
		its->from = its->queue.first->since;
		its->began = now;
		its->next = worker->backlog->taking_over;
		worker->backlog->taking_over = its;
	}
	rule->takes_over = its->takes_over;
}

void backlog_free(struct worker *worker)
{
	if (worker->backlog)
		waiting_free(&worker->backlog->waiting);
	free(worker->backlog);
	worker->backlog = NULL;
}

static int send_one(struct worker *worker, struct rule *rule, const struct waiting_packet *packet)
{
	return kept_send(worker, rule, &rule->counters->backlog, kept_choose(rule, packet->payload),
			 packet->payload + SOURCE, packet->length - SOURCE);
}

static uint64_t due_at(const struct backlog_rule *its, const struct waiting_packet *packet)
{
	return its->began + (packet->since > its->from ? packet->since - its->from : 0) / BACKLOG_SPEED;
}

/* Sends the first datagrams of a rule, AT_ONCE at most, those that are due by `now` alone unless `all`. Returns how many,
 * or what egress_add() says. */
static int send_some(struct worker *worker, struct backlog_rule *its, uint64_t now, int all)
{
	struct rule *rule = worker->rules.by_slot[its->slot];
	const struct waiting_packet *packet = its->queue.first;
	int sent = 0, result, i;

	worker->egress.time = now;
	if (packet && due_at(its, packet) > now + its->for_ns / BACKLOG_SPEED + CLOCK_SET_NS) {
		its->from = packet->since; /* the clock has been set back */
		its->began = now;
	}
	for (; packet && sent < AT_ONCE; packet = packet->next, sent++) {
		if (!all && due_at(its, packet) > now + APART_NS / 2)
			break;
		result = send_one(worker, rule, packet);
		if (result < 0)
			return result;
	}
	result = sent ? egress_flush(&worker->egress, worker_complete, worker) : 0;
	for (i = 0; i < sent; i++)
		waiting_end(&worker->backlog->waiting, &its->queue);
	if (!its->queue.first) {
		leave(worker->backlog, its);
		rule->takes_over = 0;
	}
	return result < 0 ? result : sent;
}

void backlog_end(struct worker *worker, uint32_t slot)
{
	struct backlog_rule *its = worker->backlog ? &worker->backlog->rules[slot] : NULL;

	if (!its)
		return;
	while (its->takes_over && send_some(worker, its, pace_real_now(), 1) >= 0)
		;
	leave(worker->backlog, its);
	while (its->queue.first)
		drop_first(worker, its);
}

/* Frees the place of the datagram that is there longest, of whatever rule: one that takes over sends it before its time. */
static int make_room(struct worker *worker, uint64_t now)
{
	const struct waiting_packet *oldest = waiting_oldest(&worker->backlog->waiting);
	struct backlog_rule *its = &worker->backlog->rules[oldest->rule];

	if (its->takes_over)
		return send_some(worker, its, now, 1);
	drop_first(worker, its);
	return 0;
}

int backlog_keep(struct worker *worker, struct rule *rule, const struct packet *packet, const uint8_t *payload,
		 uint32_t length, uint64_t now)
{
	struct backlog *backlog = worker->backlog;
	struct backlog_rule *its = &backlog->rules[rule->slot];
	struct waiting_packet *kept;
	int result;

	while (!its->takes_over && its->queue.first && age_of(its->queue.first, now) > its->for_ns)
		drop_first(worker, its);
	while (!waiting_fits(&backlog->waiting, SOURCE + length)) {
		result = make_room(worker, now);
		if (result < 0)
			return result;
	}
	kept = waiting_add(&backlog->waiting, &its->queue, rule->slot, NULL, SOURCE + length, now);
	memset(kept->payload, 0, SOURCE);
	memcpy(kept->payload, packet->source, packet->family == 6 ? 16 : 4);
	memcpy(kept->payload + SOURCE, payload, length);
	count(&rule->counters->backlog, 1);
	return 0;
}

int backlog_send(struct worker *worker, uint64_t now)
{
	struct backlog_rule *its, *next;

	for (its = worker->backlog->taking_over; its; its = next) {
		int result;

		next = its->next;
		do {
			result = send_some(worker, its, now, 0);
		} while (result == AT_ONCE && its->takes_over);
		if (result < 0)
			return result;
	}
	return 0;
}

int backlog_send_all(struct worker *worker)
{
	int result = 0;

	while (result >= 0 && worker->backlog->taking_over)
		result = send_some(worker, worker->backlog->taking_over, pace_real_now(), 1);
	return result < 0 ? result : 0;
}

uint64_t backlog_sleep(const struct worker *worker, uint64_t other)
{
	if (!worker->backlog->taking_over)
		return other;
	return other && other < APART_NS ? other : APART_NS;
}
