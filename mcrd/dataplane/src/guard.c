/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "guard.h"

#include <string.h>

/* Of a payload this much tells it from others: what counts its datagrams stands in front, a checksum at the end. */
enum { HEAD = 48, TAIL = 16, WORDS = 16 /* bytes that are mixed at once */ };

enum { BURST = 4, SLOW = 16 /* ms */ };

enum { HARDWARE_AT = 6, HARDWARE_ADDRESS = 6 };

static uint64_t get64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static uint32_t get32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

/* Both halves of the product: each bit of the result depends on all of the operands. */
static uint64_t mix(uint64_t a, uint64_t b)
{
	__uint128_t product = (__uint128_t)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t mix_words(uint64_t state, const uint8_t *at, uint64_t seed)
{
	return mix(get64(at) ^ state, get64(at + 8) ^ seed);
}

/* `length` is more than the words; the last ones overlap those before. */
static uint64_t mix_all(uint64_t state, const uint8_t *payload, uint32_t length, uint64_t seed)
{
	const uint8_t *last = payload + length - WORDS;

	for (; payload < last; payload += WORDS)
		state = mix_words(state, payload, seed);
	return mix_words(state, last, seed);
}

static uint64_t content_of(const struct guard *guard, uint64_t destination, const uint8_t *payload, uint32_t length)
{
	const uint64_t *seed = guard->seed;
	uint64_t a = 0, b = 0;

	destination += (uint64_t)length << 32;
	if (length > HEAD + TAIL) {
		/* Four products that do not wait for each other. */
		a = mix(get64(payload) ^ seed[0], get64(payload + 8) ^ seed[1] ^ destination);
		b = mix(get64(payload + 16) ^ seed[2], get64(payload + 24) ^ seed[3]);
		a ^= mix(get64(payload + 32) ^ seed[4], get64(payload + 40) ^ seed[5]);
		b ^= mix(get64(payload + length - 16) ^ seed[6], get64(payload + length - 8) ^ seed[7]);
		return mix(a, b);
	}
	if (length > WORDS)
		return mix(mix_all(destination ^ seed[0], payload, length, seed[1]), seed[2]);
	if (length >= 8) {
		a = get64(payload);
		b = get64(payload + length - 8);
	} else if (length >= 4) {
		a = get32(payload);
		b = get32(payload + length - 4);
	} else if (length > 0) {
		a = (uint64_t)payload[0] << 16 | (uint64_t)payload[length / 2] << 8 | payload[length - 1];
	}
	return mix(mix(a ^ seed[0] ^ destination, b ^ seed[1]), seed[2]);
}

/* The rest too; never 0. */
static uint32_t whole_of(const struct guard *guard, uint64_t content, const uint8_t *payload, uint32_t length)
{
	return (uint32_t)((length > HEAD + TAIL ? content_hash(&guard->key, content, payload, length) : content) >> 32) | 1;
}

uint64_t guard_hash(const struct guard *guard, uint64_t about, const uint8_t *payload, uint32_t length)
{
	return length > HEAD + TAIL ? content_hash(&guard->key, about, payload, length) :
				      content_of(guard, about, payload, length);
}

void guard_init(struct guard *guard, struct guard_memory *shared)
{
	memset(guard, 0, sizeof(*guard));
	guard->shared = shared;
	/* A copy: a compromised worker may write there. */
	memcpy(guard->seed, shared->seed, sizeof(guard->seed));
	content_expand(&guard->key, &(struct hash_seed){ { guard->seed[0], guard->seed[1] } });
}

void guard_look(const struct guard *guard, const struct frame *frame, const struct packet *packet, uint32_t interface,
		uint32_t rule, uint64_t time, struct guard_frame *out)
{
	uint64_t hardware = 0;
	uint8_t hops;

	/* A datagram was parsed: so there is a header of each. */
	out->hardware = NULL;
	if (frame->link == LINK_ETHERNET) {
		out->hardware = frame->data + HARDWARE_AT;
		hardware = get64(out->hardware - 2); /* with the end of the destination's, which is the same for all */
	}
	if (packet->family == 6) {
		out->source = get64(packet->source) * 3 + get64(packet->source + 8);
		out->destination = get64(packet->destination) * 3 + get64(packet->destination + 8);
		hops = packet->source[-1];
	} else {
		out->source = get32(packet->source);
		out->destination = get32(packet->destination);
		hops = packet->source[-4];
	}
	out->destination += (uint64_t)packet->protocol << 56 | (uint64_t)packet->destination_port << 36;
	out->sender = (uint32_t)(mix((out->source + ((uint64_t)hops << 32) + ((uint64_t)interface << 40)) ^ guard->seed[0],
				     hardware ^ guard->seed[1]) >> 32);
	out->rule = rule;
	out->now = (uint32_t)(time / 1000000);
	out->ahead = 0;
}

/* Frames of two CPUs have times that may go back a little; a clock that is set goes back by more. */
static int is_within(uint32_t now, uint32_t then, uint32_t time)
{
	return now - then + time <= 2 * time;
}

static uint32_t load(const uint32_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

static void store(uint32_t *at, uint32_t value)
{
	__atomic_store_n(at, value, __ATOMIC_RELAXED);
}

/* Is anything known to come back? Then contents are told apart by all of their bytes. */
static int is_armed(const struct guard *guard, uint32_t now)
{
	uint32_t armed = load(&guard->shared->armed);

	return armed != 0 && is_within(now, armed, GUARD_REMEMBER);
}

static uint32_t count_of(const struct guard_content *content)
{
	return load(&content->count) & ~MCRD_GUARD_DETAILED;
}

static struct guard_details *details_of(const struct guard *guard, struct guard_content *content)
{
	struct guard_details *details = &guard->shared->details[content - guard->shared->contents];
	uint32_t count = load(&content->count), passed = load(&content->passed);

	if (!(count & MCRD_GUARD_DETAILED)) {
		store(&details->passes, count);
		store(&details->seen, passed);
		store(&details->born, passed);
		store(&details->whole, 0);
		store(&content->count, count | MCRD_GUARD_DETAILED);
	}
	return details;
}

/* Two workers may lose one of both additions: what is counted here is compared with room to spare. */
static void pass(struct guard_content *content, struct guard_details *details, uint32_t now)
{
	store(&content->passed, now);
	store(&details->passes, load(&details->passes) + 1);
}

/* The first says it again. */
static void repeat(struct guard_content *content, struct guard_details *details, uint32_t now)
{
	uint32_t count = load(&content->count) + 1;

	if (count != 0) /* else it stays what it is */
		store(&content->count, count);
	store(&details->seen, now);
	pass(content, details, now);
}

/* The place of a content that is not known. What was said more than once stays, as long as it is of use. */
static struct guard_content *place_for(struct guard_content *bucket, uint32_t now)
{
	uint32_t first = now - load(&bucket[0].passed) + GUARD_WITHIN, second = now - load(&bucket[1].passed) + GUARD_WITHIN;

	if (first > 2 * GUARD_WITHIN)
		return bucket;
	if (second > 2 * GUARD_WITHIN)
		return bucket + 1;
	first += load(&bucket[0].count) == 1 ? 2 * GUARD_WITHIN : 0;
	second += load(&bucket[1].count) == 1 ? 2 * GUARD_WITHIN : 0;
	return bucket + (second > first);
}

static struct guard_neighbour *neighbour_of(struct guard *guard, const struct guard_frame *frame)
{
	uint64_t address = frame->source;
	struct guard_neighbour *neighbour;
	uint32_t tag;

	if (frame->hardware) {
		address = 0;
		memcpy(&address, frame->hardware, HARDWARE_ADDRESS);
	}
	tag = (uint32_t)(mix(address ^ guard->seed[2], (frame->rule + 1ULL) ^ guard->seed[3]) >> 32);
	neighbour = &guard->neighbours[tag % GUARD_NEIGHBOURS];
	if (neighbour->tag != tag || !is_within(frame->now, neighbour->last, GUARD_REMEMBER))
		*neighbour = (struct guard_neighbour){ .tag = tag, .last = frame->now };
	return neighbour;
}

/* Two contents of one neighbour were dropped: it returns what we send, as long as it goes on to. */
static void learn(struct guard *guard, struct guard_neighbour *neighbour, uint32_t whole, uint32_t now)
{
	neighbour->last = now;
	if (neighbour->opinion == NEIGHBOUR_UNKNOWN) {
		if (neighbour->content == 0)
			neighbour->content = whole;
		else if (neighbour->content != whole)
			neighbour->opinion = NEIGHBOUR_RETURNS;
	}
	if (neighbour->opinion == NEIGHBOUR_RETURNS)
		store(&guard->shared->armed, now | 1);
}

/* Under test all copies are dropped. What was under way when it began has come back by then + GUARD_WITHIN; what a
 * loop brings after that is no more than was sent since. 1: the neighbour brings more. */
static int test(struct guard_copy *copy, const struct guard_details *details, uint32_t now)
{
	uint32_t passes = load(&details->passes);
	int32_t took = (int32_t)(now - copy->since);

	if (!copy->tested) {
		copy->tested = 1;
		copy->since = now;
		copy->passes = passes;
		copy->more = 0;
		return 0;
	}
	if (took <= GUARD_WITHIN)
		return 0;
	copy->more++;
	if (took < 3 * GUARD_WITHIN)
		return 0;
	passes -= copy->passes;
	copy->tested = 0;
	return copy->more > (uint64_t)passes + passes / 8 + 2;
}

/* The first has fallen silent, and if this were a loop, all that we sent would have come back twice by now. */
static int takes_over(const struct guard_copy *copy, const struct guard_content *content,
		      const struct guard_details *details, uint32_t now)
{
	return (int32_t)(now - load(&details->seen)) > 2 * GUARD_WITHIN &&
	       2 * (uint64_t)copy->count <= 3 * (uint64_t)count_of(content);
}

/* How often another sender may say it. Of what the first says in a burst only the beginning counts: it may be a relay
 * that is in a loop itself, and then each relay behind it would make a multiple of what the one before made. */
static uint64_t allowed(const struct guard_content *content, uint32_t age)
{
	uint64_t said = count_of(content), slow = BURST + age / SLOW;

	return 2 * (said < slow ? said : slow) + 2;
}

/* Another sender than the first says it. */
static enum guard_answer ask_of_copy(struct guard *guard, struct guard_content *content, const struct guard_frame *frame,
				     uint64_t key, uint32_t whole)
{
	uint64_t place = mix((key + whole) ^ guard->seed[4], frame->sender ^ guard->seed[5]);
	struct guard_copy *copy = &guard->copies[place % GUARD_COPIES];
	struct guard_neighbour *neighbour = neighbour_of(guard, frame);
	struct guard_details *details = details_of(guard, content);
	uint32_t now = frame->now, born = load(&details->born), tag = (uint32_t)(place >> 32);
	int returns = neighbour->opinion == NEIGHBOUR_RETURNS && load(&details->whole) == whole;

	if (neighbour->opinion == NEIGHBOUR_INDEPENDENT) {
		neighbour->last = now;
		pass(content, details, now);
		return GUARD_COPY;
	}
	if (copy->tag != tag || copy->born != born || !is_within(now, copy->last, GUARD_WITHIN))
		*copy = (struct guard_copy){ .tag = tag, .born = born };
	copy->last = now;
	copy->count += copy->count < UINT32_MAX;
	if (!returns && !copy->tested && copy->count <= allowed(content, now - born)) {
		if (takes_over(copy, content, details, now)) {
			store(&content->first, frame->sender);
			store(&content->count, copy->count | MCRD_GUARD_DETAILED);
			store(&details->seen, now);
		}
		pass(content, details, now);
		return GUARD_COPY;
	}
	if (test(copy, details, now)) {
		neighbour->opinion = NEIGHBOUR_INDEPENDENT;
		neighbour->last = now;
		pass(content, details, now);
		return GUARD_COPY;
	}
	learn(guard, neighbour, whole, now);
	return GUARD_LOOPED;
}

static struct guard_content *bucket_of(const struct guard *guard, uint64_t content)
{
	return &guard->shared->contents[content % (MCRD_GUARD_CONTENTS / MCRD_GUARD_WAYS) * MCRD_GUARD_WAYS];
}

/* Of several datagrams the misses of the cache overlap. */
static void look_ahead(const struct guard *guard, struct guard_frame *frame, const uint8_t *payload, uint32_t left,
		       uint32_t size)
{
	uint32_t count = left > size ? (left + size - 1) / size : 1, i;

	if (count > GUARD_AHEAD)
		count = GUARD_AHEAD;
	for (i = 0; i < count; i++, payload += size, left -= size) {
		uint64_t content = content_of(guard, frame->destination, payload, left < size ? left : size);

		__builtin_prefetch(bucket_of(guard, content), 1);
		frame->contents[count - 1 - i] = content;
	}
	frame->ahead = count;
}

void guard_next(const struct guard *guard, struct guard_frame *frame, const uint8_t *payload, uint32_t left,
		uint32_t size)
{
	if (frame->ahead == 0)
		look_ahead(guard, frame, payload, left, size);
	frame->content = frame->contents[--frame->ahead];
}

enum guard_answer guard_ask(struct guard *guard, const struct guard_frame *frame, const uint8_t *payload,
			    uint32_t length)
{
	uint64_t content = frame->content;
	uint32_t tag = (uint32_t)(content >> 32), now = frame->now, i;
	struct guard_content *bucket = bucket_of(guard, content);
	struct guard_details *details;
	int armed = is_armed(guard, now);

	for (i = 0; i < MCRD_GUARD_WAYS; i++) {
		struct guard_content *known = &bucket[i];

		if (load(&known->tag) != tag || !is_within(now, load(&known->passed), GUARD_WITHIN))
			continue;
		if (load(&known->first) != frame->sender)
			return ask_of_copy(guard, known, frame, content, whole_of(guard, content, payload, length));
		details = details_of(guard, known);
		if (armed)
			store(&details->whole, whole_of(guard, content, payload, length));
		repeat(known, details, now);
		return GUARD_REPEAT;
	}
	bucket = place_for(bucket, now);
	store(&bucket->first, frame->sender);
	store(&bucket->count, 1);
	store(&bucket->passed, now);
	store(&bucket->tag, tag);
	if (armed)
		store(&details_of(guard, bucket)->whole, whole_of(guard, content, payload, length));
	return GUARD_PASS;
}
