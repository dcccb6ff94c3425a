/* Does a datagram come back that this daemon has relayed? A loop has no mark of ours: each relay sends a new datagram.
 * So it is told by what it says: the same bytes for the same destination, within a short time, by another sender.
 *
 * Whoever says a thing first may say it again as often as it likes. Another sender may say it twice as often and twice
 * more, so a few copies are relayed of what loops, and nothing is lost of what several hosts say alike. What is beyond
 * that is dropped, and is a test as well: a loop returns no more than was sent, so who goes on to say more than that
 * is a sender of its own, and then believed.
 *
 * What was said is in a memory that all workers of the daemon share: a copy may come to another interface than the
 * original did. Who said it again, and what follows from that, each worker knows for itself.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_GUARD_H
#define MCRD_GUARD_H

#include "content.h"
#include "packet.h"
#include "shared.h"

enum {
	GUARD_WITHIN = 500,       /* ms: a copy that comes back later than that is not known for one */
	GUARD_REMEMBER = 60000,   /* ms: what is thought of a neighbour, since it was last of use */
	GUARD_COPIES = 2048,
	GUARD_NEIGHBOURS = 256,
	GUARD_AHEAD = 16,         /* datagrams of a super-frame that are looked up together */
};

/* What other senders than the first say of a content. */
struct guard_copy {
	uint32_t tag;
	uint32_t born;   /* that of the content */
	uint32_t last;   /* ms */
	uint32_t count;
	uint32_t since;  /* ms: under test */
	uint32_t passes; /* of the content, when the test began */
	uint32_t more;   /* copies since the first that cannot have been under way by then */
	uint32_t tested;
};

enum guard_opinion { NEIGHBOUR_UNKNOWN, NEIGHBOUR_RETURNS, NEIGHBOUR_INDEPENDENT };

/* Whoever hands us frames for a rule. */
struct guard_neighbour {
	uint32_t tag;
	uint32_t last;    /* ms */
	uint32_t content; /* one that it brought too often */
	uint32_t opinion; /* enum guard_opinion */
};

struct guard {
	struct guard_memory *shared;
	uint64_t seed[MCRD_GUARD_SEEDS];
	struct content_key key; /* made of the seed */
	struct guard_copy copies[GUARD_COPIES];
	struct guard_neighbour neighbours[GUARD_NEIGHBOURS];
};

/* Of a frame; its datagrams have one sender. */
struct guard_frame {
	uint64_t destination;
	uint64_t source;
	const uint8_t *hardware; /* address that the frame came from; NULL: the link has none */
	uint32_t sender; /* hardware address, address, TTL, interface; not the port, which a host chooses anew */
	uint32_t rule;
	uint32_t now;    /* ms */
	uint32_t ahead;  /* contents that are known, from the next datagram on */
	uint64_t content; /* hash of the datagram that is asked for */
	uint64_t contents[GUARD_AHEAD]; /* of it and the next ones, backwards */
};

enum guard_answer {
	GUARD_PASS,   /* it is new */
	GUARD_REPEAT, /* its sender said it before: pass */
	GUARD_COPY,   /* another one did, but not too often: pass */
	GUARD_LOOPED
};

void guard_init(struct guard *guard, struct guard_memory *shared);

void guard_look(const struct guard *guard, const struct frame *frame, const struct packet *packet, uint32_t interface,
		uint32_t rule, uint64_t time, struct guard_frame *out);

/* Of all bytes, and of what they are about. */
uint64_t guard_hash(const struct guard *guard, uint64_t about, const uint8_t *payload, uint32_t length);

/* Goes on to the next datagram of the frame: `left` bytes are left of it, `size` for each datagram but the last, which
 * may be shorter. */
void guard_next(const struct guard *guard, struct guard_frame *frame, const uint8_t *payload, uint32_t left,
		uint32_t size);

/* Is that a copy? */
enum guard_answer guard_ask(struct guard *guard, const struct guard_frame *frame, const uint8_t *payload,
			    uint32_t length);

#endif
