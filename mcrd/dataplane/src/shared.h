/* What Python asks of C: settings, rules, and functions. cffi reads this file too: declarations and plain numbers only.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_SHARED_H
#define MCRD_SHARED_H

#include "segment.h"

#define MCRD_MISSING_NS 3000000000 /* after the last datagram; then nothing comes that is missing */

enum link_layer {
	LINK_ETHERNET = 0,
	LINK_IP = 1
};

struct ring_geometry {
	uint32_t block_size;
	uint32_t block_count;
	uint32_t frame_size;
};

/* An interface that a worker reads. Rules call it by the place of its counters in the segment. */
struct interface_settings {
	uint32_t number;   /* any that no other interface has */
	uint32_t link;     /* enum link_layer */
	uint32_t counters; /* its place in the segment */
	struct ring_geometry rings[MCRD_RINGS]; /* the second is for frames that the first has no room for */
};

struct worker_settings {
	int channel;       /* SOCK_SEQPACKET to the supervisor */
	int readiness;     /* epoll descriptor that holds the packet sockets */
	uint32_t sockets;  /* how many egress sockets the file table has room for */
	uint32_t busy_poll; /* it never sleeps */
	uint32_t interface_count;
	struct interface_settings interfaces[MCRD_INTERFACES];
};

/* Where a rule sends. A socket is a place in the file table, from 0; MCRD_BY_MEMBER: each member has its own;
 * MCRD_NOWHERE: there is no way to the host, and its packets are counted as unreachable. Of a member alone,
 * MCRD_UNWANTED: nobody has joined its group, and its packets are counted as not_wanted. */
struct rule_output {
	uint32_t socket;
	uint32_t counters;           /* slot in the segment */
	uint32_t packets_per_second; /* 0: no limit */
	uint32_t sample;             /* one datagram in so many; 0 or 1: each */
	uint32_t run_count;          /* of sources; 0: any */
};

/* Sources from one address to another. */
struct source_run {
	uint8_t first[16]; /* IPv4: the first four bytes */
	uint8_t last[16];
};

struct endpoint {
	uint8_t address[16]; /* IPv4: the first four */
	uint16_t port;
	uint8_t family;      /* 4 or 6 */
};

struct network {
	uint8_t address[16];
	uint8_t bits;
};

/* What a rule takes: destinations from `first` on, in a network of `bits`, up to `last_port`; and `also_count` more
 * addresses, as if they were the first. */
struct rule_match {
	struct endpoint first;
	uint8_t bits;
	uint8_t protocol;            /* 17: UDP; 50: ESP */
	uint8_t by_source;           /* a member is a source, and not a destination alone */
	uint16_t last_port;
	uint8_t interface;           /* its counters' place in the segment */
	uint8_t standby;             /* another host relays: nothing is sent */
	uint16_t vlan;               /* 0: untagged */
	uint32_t packets_per_second; /* 0: no limit */
	uint32_t source_count;       /* 0: any */
	uint32_t exclude_count;
	uint32_t dedupe; /* the same payload again within so many ms is dropped; 0: it is not */
	uint32_t also_count;
	uint64_t backlog; /* so many ns of what came does a rule that stands by keep; 0: nothing */
	uint32_t overhears; /* one more than the place of the socket where what another host sends is heard; 0: none */
	struct inspect_settings inspect;
	struct merge_settings merge;
	struct switch_settings switches;
};

/* A member of a rule: a destination that it takes, with the source where rules go by that. */
struct member_key {
	uint32_t slot; /* of the rule */
	struct endpoint destination;
	struct endpoint source; /* all zero where the rule does not go by source */
};

/* What a rule or an output shows at one time: how much flows, in the last second and the last minute. */
struct glance {
	uint64_t packets;
	uint64_t bytes;
	uint64_t peak; /* the most packets in 10 ms */
	uint64_t minute_packets; /* in a second of the minute, in thousandths */
	uint64_t minute_bytes;
	uint64_t minute_peak;
	uint64_t losses;  /* that are known: while the slot is the same one's, this number only grows */
	uint64_t missing; /* what is taken for lost meanwhile, since nothing has come for a while */
	uint64_t used;    /* as in switch_counters */
	uint64_t since;
};

struct worker;

/* Functions that can fail return 0 or a negative errno. */
struct worker *worker_new(const struct worker_settings *settings); /* NULL: see errno */
void worker_free(struct worker *worker);
int worker_map_segment(struct worker *worker, int descriptor);
int worker_map_guard(struct worker *worker, int descriptor);
int worker_map_ring(struct worker *worker, uint32_t interface, uint32_t which, int packet_socket);
/* An io_uring, or ppoll and writev. 1: an io_uring without what makes one thread its only user */
int worker_open_engine(struct worker *worker, int polls);
int worker_make_places(struct worker *worker); /* the table of its sockets: by then the engine is open */
int worker_restrict_uring(struct worker *worker);
int worker_enable_uring(struct worker *worker);
int worker_keep(struct worker *worker, int descriptor); /* by the io_uring: it ends after the process */
void worker_begin(struct worker *worker, uint64_t since, uint64_t until, int passes_over);
void worker_pause(struct worker *worker);
int worker_run(struct worker *worker); /* MCRD_WANTS: see worker_next_wanted(), _next_unknown() */
const uint8_t *worker_message(const struct worker *worker);
int worker_take_descriptors(struct worker *worker, int *descriptors, int room);
uint32_t worker_places(const struct worker *worker);
int worker_set_socket(struct worker *worker, uint32_t place, int descriptor);
int worker_put_rule(struct worker *worker, uint32_t slot, const struct rule_match *match,
		    const struct network *networks, const struct rule_output *outputs, uint32_t output_count,
		    const struct source_run *runs, /* of all outputs, in their order: see choice_new() */
		    const uint32_t *kept, uint32_t kept_count); /* kept: see rules_put() */
int worker_remove_rule(struct worker *worker, uint32_t slot);
int worker_put_member(struct worker *worker, const struct member_key *key, uint32_t last_used,
		      const uint32_t *sockets, uint32_t socket_count);
int worker_remove_member(struct worker *worker, const struct member_key *key);
int worker_listen(struct worker *worker, uint32_t place, uint32_t to, uint32_t counters, uint32_t last_used,
		  uint64_t within, int keeps); /* ns */
int worker_tell_answerer(struct worker *worker, uint32_t place, const struct endpoint *who, uint32_t to);
int64_t worker_next_unknown(struct worker *worker);
int worker_next_wanted(struct worker *worker, struct member_key *key);
int worker_own(struct worker *worker, const struct endpoint *source, int add);

/* Which frames of a ring are its worker's, while other rings of the interface get them too: see is_of_another() in
 * relay.c. */
struct ring_share {
	uint64_t dealt_with; /* so many, from the first that is there on, are in counters already */
	uint64_t since;      /* those of before are others', ns, */
	uint64_t until;      /* and so are those from then on; */
	uint32_t whole;      /* 1: but of before it has those that are no super-frames */
};

/* Gives frames of a ring back to the kernel, as a worker does what it has dealt with: those from *position on, up
 * to the first that is not there yet. Nobody else may read it. Returns how many were its worker's, and not dealt with, or
 * a negative errno. */
int64_t ring_throw_away(int packet_socket, const struct ring_geometry *geometry, uint64_t *position, uint64_t *frames,
			const struct ring_share *share);

/* How many frames wait in the ring that is mapped there, from `position` on, of which so many are known. It may be
 * filled meanwhile, and nobody may read it. Returns that, or a negative errno. */
int64_t ring_waiting(void *memory, const struct ring_geometry *geometry, uint64_t position, uint64_t known);

/* A worker has crashed: what it had in hand is in nobody's memory any more, so another leg may bring it. */
void merge_forget(struct segment *segment);

/* Of the first `count` outputs, those whose unsent datagrams are not as many as `known` says, which learns them:
 * writes their slots, and returns how many they are. */
uint32_t counters_unsent(const struct output_counters *outputs, uint32_t count, uint64_t *known, uint32_t *slots);
/* The first `count` of them, at `now`. */
void counters_of_rules(const struct segment *segment, uint32_t count, uint64_t now, struct glance *glances);
void counters_of_outputs(const struct segment *segment, uint32_t count, uint64_t now, struct glance *glances);
void meter_read(const struct meter *meter, const struct traffic *traffic, uint64_t now, struct rates *rates);

/* See sandbox.py. MCRD_VIOLATION is the exit status after a system call that the filter forbids. */
int sandbox_unshare(int namespaces);
int sandbox_empty_root(const char *on);
int sandbox_limit_bounding_set(uint64_t kept);
int sandbox_lock_securebits(void);
int sandbox_limit_capabilities(uint64_t kept);
uint64_t sandbox_capabilities(void);
int sandbox_refuse_code(void);
int sandbox_landlock(void);
int sandbox_disconnect(int descriptor);
uint32_t sandbox_architecture(void);
int sandbox_system_call(const char *name);
int sandbox_filter(const void *filter, uint32_t instructions);

#endif
