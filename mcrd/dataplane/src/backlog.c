/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "backlog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "counters.h"
#include "kept.h"

/* Of a rule, by its slot. */
struct backlog_rule {
	struct waiting_queue queue;
	struct backlog_rule *next; /* of those that take over */
	uint64_t for_ns;           /* how long it keeps what came */
	uint64_t from, began;      /* what came at `from` is due at `began`: both in ns, CLOCK_REALTIME */
	uint64_t hears;            /* since when it does, until something comes after that: then 0; */
	uint64_t told;             /* when it was told to take over, and */
	uint64_t heard;            /* when the other host last sent what this one had, or was to have; likewise */
	uint32_t ear;              /* the place where that is heard; NOT_HEARD: nowhere */
	uint32_t takes_over;
	uint32_t waits;            /* for the other host to be silent, or other legs to be told */
};

/* Rules that are legs of one stream, or a rule that is none. */
struct backlog_legs {
	struct backlog_rule *leg[MCRD_LEGS];
	uint32_t count;
};

enum {
	LIKE = 16384, /* lists of what is kept, by the hashes of contents */
	EARLY_SETS = 8192,
	EARLY_WAYS = 4,
};

/* In the order in which they came. */
struct backlog_like {
	struct waiting_packet *first, *last;
};

/* A content that another host sent before it came here. */
struct backlog_early {
	uint64_t hash;
	uint64_t at; /* when it was heard, in ns; 0: never */
};

struct backlog {
	struct waiting waiting;
	struct backlog_rule *taking_over;
	struct backlog_rule rules[MCRD_RULE_SLOTS];
	struct backlog_like like[LIKE];
	struct backlog_early early[EARLY_SETS][EARLY_WAYS];
};

#define NOT_HEARD UINT32_MAX

/* What is heard early is about to come: it is in the ring already, or under way by a longer path. */
#define EARLY_NS 1000000000ULL

/* What stands before the payload of what is kept: outputs choose by it, and members are known by it. */
struct backlog_head {
	uint8_t source[16];
	uint8_t destination[16];
	uint16_t source_port;
	uint16_t destination_port;
	uint32_t family;
};

enum {
	HEAD = sizeof(struct backlog_head),
	AT_ONCE = 512,             /* datagrams that are written together */
	APART_NS = 1000 * 1000,    /* what is due within it leaves together: so the worker wakes at most so often */
	CLOCK_SET_NS = 1000 * 1000 * 1000,
};

static uint32_t slot_of(const struct backlog *backlog, const struct backlog_rule *its)
{
	return (uint32_t)(its - backlog->rules);
}

/* All that are legs of one stream with the rule, itself among them. */
static void find_legs(const struct worker *worker, const struct rule *rule, struct backlog_legs *legs)
{
	struct backlog_rule *rules = worker->backlog->rules, *own = &rules[rule->slot];
	uint32_t leg;
	int found = 0;

	legs->count = 0;
	for (leg = 0; leg < MCRD_LEGS; leg++) {
		ptrdiff_t slot;

		if (rule->merge && rule->merge->legs[leg])
			slot = rule->merge->legs[leg] - worker->segment->merges;
		else if (rule->switches && rule->switches->legs[leg])
			slot = rule->switches->legs[leg] - worker->segment->switches;
		else
			continue;
		found |= &rules[slot] == own;
		legs->leg[legs->count++] = &rules[slot];
	}
	if (!found) /* of none; or another rule is this leg by now */
		*legs = (struct backlog_legs){ { own }, 1 };
}

/* What has one content of those of a stream; of a rule that is no leg, of its own. */
static uint64_t about_of(const struct rule *rule)
{
	if (rule->merge)
		return rule->match.merge.stream;
	return rule->switches ? rule->match.switches.copies.stream : rule->slot;
}

static uint64_t hash_of(const struct worker *worker, const struct rule *rule, const uint8_t *data, uint32_t length)
{
	return guard_hash(&worker->guard, about_of(rule), data, length);
}

static void count_standby(struct worker *worker, const struct rule *rule, uint64_t datagrams)
{
	count(&worker->segment->interfaces[rule->match.interface].dropped[DROP_STANDBY], datagrams);
	count(&rule->counters->standby, datagrams);
}

static struct backlog_like *like(struct backlog *backlog, uint64_t hash)
{
	return &backlog->like[hash % LIKE];
}

static void list(struct backlog *backlog, struct waiting_packet *packet, uint64_t hash)
{
	struct backlog_like *those = like(backlog, hash);

	packet->number = hash;
	packet->span = 1;
	packet->like = NULL;
	if (those->last)
		those->last->like = packet;
	else
		those->first = packet;
	those->last = packet;
}

static void unlist(struct backlog *backlog, struct waiting_packet *packet)
{
	struct backlog_like *those = like(backlog, packet->number);
	struct waiting_packet *before = NULL, *at;

	if (!packet->span)
		return;
	packet->span = 0;
	for (at = those->first; at != packet; at = at->like)
		before = at;
	if (before)
		before->like = packet->like;
	else
		those->first = packet->like;
	if (those->last == packet)
		those->last = before;
}

/* The first datagram of the rule goes. */
static void end_first(struct backlog *backlog, struct backlog_rule *its)
{
	unlist(backlog, its->queue.first);
	waiting_end(&backlog->waiting, &its->queue);
}

/* What another host has sent is in no one's way. */
static void end_heard(struct backlog *backlog, struct backlog_rule *its)
{
	while (its->queue.first && its->queue.first->left)
		end_first(backlog, its);
}

/* The first datagram of the rule is neither kept any more nor sent. */
static void drop_first(struct worker *worker, struct backlog_rule *its)
{
	const struct rule *rule = worker->rules.by_slot[slot_of(worker->backlog, its)];
	uint32_t left = its->queue.first->left;

	end_first(worker->backlog, its);
	if (!rule || left)
		return;
	count(&rule->counters->backlog, (uint64_t)-1);
	count_standby(worker, rule, 1);
}

static void count_heard(struct worker *worker, struct backlog_rule *its, const struct rule *rule, uint64_t now)
{
	count_standby(worker, rule, 1);
	count(&rule->counters->overheard, 1);
	its->heard = now;
}

/* What is kept longest of those with this content, by rules of one stream that hear that place; NULL: there is none. */
static struct waiting_packet *find(const struct worker *worker, uint64_t about, uint32_t place, uint64_t hash,
				   const uint8_t *data, uint32_t length)
{
	struct waiting_packet *packet = like(worker->backlog, hash)->first;

	for (; packet; packet = packet->like) {
		const struct rule *rule = worker->rules.by_slot[packet->rule];

		if (packet->number == hash && packet->length == HEAD + length &&
		    worker->backlog->rules[packet->rule].ear == place && rule && about_of(rule) == about &&
		    memcmp(packet->payload + HEAD, data, length) == 0)
			return packet;
	}
	return NULL;
}

static struct backlog_early *early_set(struct backlog *backlog, uint64_t hash)
{
	return backlog->early[(hash >> 32) % EARLY_SETS];
}

static void note_early(struct backlog *backlog, uint64_t hash, uint64_t now)
{
	struct backlog_early *set = early_set(backlog, hash), *oldest = set;
	int i;

	for (i = 1; i < EARLY_WAYS; i++)
		if (set[i].at < oldest->at)
			oldest = &set[i];
	*oldest = (struct backlog_early){ hash, now };
}

/* Was it heard before it came at `now`? Each that was heard stands for one that comes. */
static int was_early(struct backlog *backlog, uint64_t hash, uint64_t now)
{
	struct backlog_early *set = early_set(backlog, hash);
	int i;

	for (i = 0; i < EARLY_WAYS; i++)
		if (set[i].at && set[i].hash == hash && now < set[i].at + EARLY_NS && set[i].at < now + EARLY_NS) {
			set[i].at = 0;
			return 1;
		}
	return 0;
}

/* Does the rule, or another leg of its stream, keep what is not heard at that place? */
static int is_heard_for(const struct worker *worker, const struct rule *rule, uint32_t place)
{
	struct backlog_legs legs;
	uint32_t i;

	find_legs(worker, rule, &legs);
	for (i = 0; i < legs.count; i++) {
		const struct rule *leg = worker->rules.by_slot[slot_of(worker->backlog, legs.leg[i])];

		if (leg && legs.leg[i]->ear == place && (leg->match.standby || legs.leg[i]->takes_over))
			return 1;
	}
	return 0;
}

void backlog_overhear(void *context, uint32_t place, uint32_t slot, const uint8_t *data, uint32_t length)
{
	struct worker *worker = context;
	struct rule *rule = worker->rules.by_slot[slot];
	struct waiting_packet *packet;
	struct backlog_rule *its;
	uint64_t hash, now;

	if (!worker->backlog || !rule || !is_heard_for(worker, rule, place))
		return;
	now = pace_real_now();
	hash = hash_of(worker, rule, data, length);
	packet = find(worker, about_of(rule), place, hash, data, length);
	if (!packet) {
		note_early(worker->backlog, hash, now);
		return;
	}
	its = &worker->backlog->rules[packet->rule];
	rule = worker->rules.by_slot[packet->rule];
	unlist(worker->backlog, packet);
	packet->left = 1;
	count(&rule->counters->backlog, (uint64_t)-1);
	count_heard(worker, its, rule, now);
	end_heard(worker->backlog, its);
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

/* What legs that take over have kept is due from now on. */
static void begin_sending(const struct backlog_legs *legs, uint64_t now)
{
	uint64_t from = now;
	uint32_t i;

	for (i = 0; i < legs->count; i++)
		if (legs->leg[i]->takes_over && legs->leg[i]->queue.first && legs->leg[i]->queue.first->since < from)
			from = legs->leg[i]->queue.first->since;
	for (i = 0; i < legs->count; i++)
		if (legs->leg[i]->takes_over) {
			legs->leg[i]->waits = 0;
			legs->leg[i]->from = from;
			legs->leg[i]->began = now;
		}
}

static int is_kept_by_others(const struct backlog_legs *legs, const struct backlog_rule *its)
{
	uint32_t i;

	for (i = 0; i < legs->count; i++)
		if (legs->leg[i] != its && legs->leg[i]->queue.first)
			return 1;
	return 0;
}

void backlog_begin(struct worker *worker, struct rule *rule)
{
	struct backlog_rule *its = worker->backlog ? &worker->backlog->rules[rule->slot] : NULL;
	const struct rule *old = worker->rules.by_slot[rule->slot];
	uint64_t now = pace_real_now();
	struct backlog_legs legs;
	int stood_by;

	if (!its || !its->queue.first) {
		/* A worker before this one had it. */
		count_standby(worker, rule, rule->counters->backlog);
		count(&rule->counters->backlog, -rule->counters->backlog);
	}
	if (!its)
		return;
	its->for_ns = rule->match.backlog;
	/* Of what waited in the ring before, nobody heard who sent it. */
	if (rule->match.overhears && !(old && old->match.overhears))
		its->hears = now;
	its->ear = rule->match.overhears ? rule->match.overhears - 1 : NOT_HEARD;
	if (rule->match.standby) {
		leave(worker->backlog, its);
		return;
	}
	while (!its->takes_over && its->queue.first && age_of(its->queue.first, now) > its->for_ns)
		drop_first(worker, its);
	stood_by = old && old->match.standby;
	find_legs(worker, rule, &legs);
	if (!its->takes_over && (its->queue.first || (stood_by && (its->ear != NOT_HEARD || is_kept_by_others(&legs, its))))) {
		its->takes_over = 1;
		its->told = now;
		if (its->ear == NOT_HEARD && legs.count == 1)
			begin_sending(&legs, now);
		else
			its->waits = 1;
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
	const struct backlog_head *head = (const struct backlog_head *)(const void *)packet->payload;
	struct packet came = {
		.source = head->source,
		.destination = head->destination,
		.source_port = head->source_port,
		.destination_port = head->destination_port,
		.family = (uint8_t)head->family,
	};

	return kept_send_on(worker, rule, &rule->counters->backlog, &came, packet->payload + HEAD, packet->length - HEAD);
}

static uint64_t due_at(const struct backlog_rule *its, const struct waiting_packet *packet)
{
	return its->began + (packet->since > its->from ? packet->since - its->from : 0) / BACKLOG_SPEED;
}

enum which { DUE, ALL, ITS_OWN, FOR_ROOM };

/* Where legs stand that send. */
struct backlog_cursor {
	const struct waiting_packet *next[MCRD_LEGS];
	int passed[MCRD_LEGS];
};

/* Which leg has what came first, of what no other host has sent; -1: none has anything. */
static int first_of(const struct backlog_legs *legs, struct backlog_cursor *at)
{
	int found = -1;
	uint32_t i;

	for (i = 0; i < legs->count; i++) {
		while (at->next[i] && at->next[i]->left) {
			at->next[i] = at->next[i]->next;
			at->passed[i]++;
		}
		if (at->next[i] && (found < 0 || at->next[i]->since < at->next[found]->since))
			found = (int)i;
	}
	return found;
}

/* They have sent all that they kept. */
static void end_taking_over(struct worker *worker, const struct backlog_legs *legs)
{
	uint32_t i;

	for (i = 0; i < legs->count; i++) {
		struct rule *rule = worker->rules.by_slot[slot_of(worker->backlog, legs->leg[i])];

		leave(worker->backlog, legs->leg[i]);
		if (rule)
			rule->takes_over = 0;
	}
}

/* Sends what a rule and the other legs of its stream that take over have kept, in the order in which it came: AT_ONCE
 * datagrams at most: those that are due by `now`, all, or what is the rule's own with all that came before. Returns how many,
 * or what egress_add() says. */
static int send_some(struct worker *worker, struct backlog_rule *its, uint64_t now, enum which which)
{
	struct backlog_legs all, legs = { .count = 0 };
	struct backlog_cursor at = { .passed = { 0 } };
	int sent = 0, result = 0, left = 0, own = -1, leg;
	uint32_t i;

	worker->egress.time = now;
	find_legs(worker, worker->rules.by_slot[slot_of(worker->backlog, its)], &all);
	for (i = 0; i < all.count; i++) {
		struct backlog_rule *one = all.leg[i];

		if (!one->takes_over || !worker->rules.by_slot[slot_of(worker->backlog, one)])
			continue;
		end_heard(worker->backlog, one);
		if (one->waits && which == DUE) {
			left |= one->queue.first != NULL;
			continue;
		}
		if (one == its)
			own = (int)legs.count;
		at.next[legs.count] = one->queue.first;
		legs.leg[legs.count++] = one;
	}
	leg = first_of(&legs, &at);
	if (leg >= 0 && due_at(legs.leg[leg], at.next[leg]) > now + its->for_ns / BACKLOG_SPEED + CLOCK_SET_NS)
		for (i = 0; i < legs.count; i++) { /* the clock has been set back */
			legs.leg[i]->from = at.next[leg]->since;
			legs.leg[i]->began = now;
		}
	for (; leg >= 0 && sent < AT_ONCE; leg = first_of(&legs, &at)) {
		const struct waiting_packet *packet = at.next[leg];

		if (which == DUE && due_at(legs.leg[leg], packet) > now + APART_NS / 2)
			break;
		if (which == ITS_OWN && !at.next[own])
			break;
		result = send_one(worker, worker->rules.by_slot[packet->rule], packet);
		if (result < 0)
			return result;
		at.next[leg] = packet->next;
		at.passed[leg]++;
		sent++;
	}
	result = sent ? egress_flush(&worker->egress, worker_complete, worker) : 0;
	for (i = 0; i < legs.count; i++) {
		for (; at.passed[i] > 0; at.passed[i]--)
			end_first(worker->backlog, legs.leg[i]);
		left |= legs.leg[i]->queue.first != NULL;
	}
	/* Room is for what comes after it. */
	if (!left && which != FOR_ROOM)
		end_taking_over(worker, &legs);
	return result < 0 ? result : sent;
}

/* What is heard for a rule that goes is told of another leg of its stream from now on. */
static void pass_ear(struct worker *worker, const struct backlog_rule *its, uint32_t slot)
{
	const struct rule *rule = worker->rules.by_slot[slot];
	struct backlog_legs legs;
	uint32_t i;

	if (!rule || its->ear == NOT_HEARD)
		return;
	find_legs(worker, rule, &legs);
	for (i = 0; i < legs.count; i++)
		if (legs.leg[i] != its && legs.leg[i]->ear == its->ear)
			answers_tell_of(&worker->answers, its->ear, slot_of(worker->backlog, legs.leg[i]));
}

void backlog_end(struct worker *worker, uint32_t slot)
{
	struct backlog_rule *its = worker->backlog ? &worker->backlog->rules[slot] : NULL;

	if (!its)
		return;
	while (its->takes_over && its->queue.first && send_some(worker, its, pace_real_now(), ITS_OWN) >= 0)
		;
	leave(worker->backlog, its);
	pass_ear(worker, its, slot);
	while (its->queue.first)
		drop_first(worker, its);
}

/* Frees the place of the datagram that is there longest, of whatever rule: one that takes over sends it before its time. */
static int make_room(struct worker *worker, uint64_t now)
{
	const struct waiting_packet *oldest = waiting_oldest(&worker->backlog->waiting);
	struct backlog_rule *its = &worker->backlog->rules[oldest->rule];

	if (its->takes_over)
		return send_some(worker, its, now, FOR_ROOM);
	drop_first(worker, its);
	return 0;
}

int backlog_keep(struct worker *worker, struct rule *rule, const struct packet *packet, const uint8_t *payload,
		 uint32_t length, uint64_t now)
{
	struct backlog *backlog = worker->backlog;
	struct backlog_rule *its = &backlog->rules[rule->slot];
	struct backlog_head *head;
	struct waiting_packet *kept;
	uint64_t hash = 0;
	int result;

	if (its->ear != NOT_HEARD) {
		/* No ring has frames of 10 s ago: a worker that takes none is replaced before. The clock has been set back
		 * then, and it may be at any time later. */
		if (now >= its->hears || its->hears - now > 10ULL * CLOCK_SET_NS)
			its->hears = 0;
		if (its->hears && rule->match.standby) {
			count_standby(worker, rule, 1);
			return 0;
		}
		hash = hash_of(worker, rule, payload, length);
		if (was_early(backlog, hash, now)) {
			count_heard(worker, its, rule, now);
			return 0;
		}
	}
	while (!its->takes_over && its->queue.first && age_of(its->queue.first, now) > its->for_ns)
		drop_first(worker, its);
	while (!waiting_fits(&backlog->waiting, HEAD + length)) {
		result = make_room(worker, now);
		if (result < 0)
			return result;
	}
	kept = waiting_add(&backlog->waiting, &its->queue, rule->slot, NULL, HEAD + length, now);
	head = (struct backlog_head *)(void *)kept->payload;
	*head = (struct backlog_head){
		.source_port = packet->source_port,
		.destination_port = packet->destination_port,
		.family = packet->family,
	};
	memcpy(head->source, packet->source, packet->family == 6 ? 16 : 4);
	memcpy(head->destination, packet->destination, packet->family == 6 ? 16 : 4);
	memcpy(kept->payload + HEAD, payload, length);
	/* So that what takes over has its members. */
	if (rule->member_outputs)
		members_prepare(&worker->rules, rule, packet, now);
	if (its->ear != NOT_HEARD)
		list(backlog, kept, hash);
	count(&rule->counters->backlog, 1);
	return 0;
}

/* Is another host still heard, or may it be? Where something is there that it had not sent for so long, it is silent. Where
 * nothing is, nobody knows: the stream may have a gap. Legs wait for each other, too: what one has kept that is not told yet
 * to take over may be what came first. */
static int waits(const struct worker *worker, struct backlog_rule *its, uint64_t now)
{
	uint64_t silence = its->for_ns / 2 < BACKLOG_SILENCE_NS ? its->for_ns / 2 : BACKLOG_SILENCE_NS;
	uint64_t lately = now - silence;
	int hears = 0, heard = 0, late = 0;
	struct backlog_legs legs;
	uint32_t i;

	if (!its->waits)
		return 0;
	find_legs(worker, worker->rules.by_slot[slot_of(worker->backlog, its)], &legs);
	for (i = 0; i < legs.count; i++) {
		const struct backlog_rule *leg = legs.leg[i];
		const struct rule *rule = worker->rules.by_slot[slot_of(worker->backlog, leg)];
		const struct waiting_packet *first = leg->queue.first;

		if (rule && !leg->takes_over && rule->match.standby && first && now - its->told < silence)
			return 1;
		if (!leg->takes_over)
			continue;
		late |= first && first->since < lately;
		/* Its ear may have gone since; and the time is more where the clock has been set back. */
		if (leg->ear == NOT_HEARD)
			continue;
		hears = 1;
		heard |= answers_are_behind(&worker->answers, leg->ear) ||
			 (leg->heard > lately && leg->heard < now + CLOCK_SET_NS);
	}
	if (hears && now - its->told < its->for_ns && (heard || !late))
		return 1;
	begin_sending(&legs, now);
	return 0;
}

int backlog_send(struct worker *worker, uint64_t now)
{
	struct backlog_rule *its, *next;

	for (its = worker->backlog->taking_over; its; its = next) {
		int result;

		next = its->next;
		if (!its->takes_over) /* it has left with another leg */
			continue;
		if (waits(worker, its, now))
			continue;
		do {
			result = send_some(worker, its, now, DUE);
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
		result = send_some(worker, worker->backlog->taking_over, pace_real_now(), ALL);
	return result < 0 ? result : 0;
}

uint64_t backlog_sleep(const struct worker *worker, uint64_t other)
{
	if (!worker->backlog->taking_over)
		return other;
	return other && other < APART_NS ? other : APART_NS;
}
