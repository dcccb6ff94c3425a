/* What C and Python both see in shared memory: counters, and what workers remember. cffi reads this file too: declarations
 * and plain numbers only.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_SEGMENT_H
#define MCRD_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

#define MCRD_ERROR_PLACES 8
#define MCRD_RULE_SLOTS 16384
#define MCRD_OUTPUT_SLOTS 65536
#define MCRD_MEMBER_SLOTS 65536
#define MCRD_BY_MEMBER 4294967295
#define MCRD_NOWHERE 4294967294
#define MCRD_UNWANTED 4294967293
#define MCRD_WANTS 1073741824
#define MCRD_RINGS 2
#define MCRD_INTERFACES 8
#define MCRD_BACKLOG_BYTES 33554432 /* of what all rules of a worker that stand by keep: backlog.h */
#define MCRD_ORDERED_STREAMS 32 /* of a worker, merged with a delay: each takes 8 MiB of address space */
#define MCRD_POSITIONS 16
#define MCRD_SECONDS 4
#define MCRD_FIVES 16
#define MCRD_RUNS 512 /* of a worker, between two flushes: egress.h */
#define MCRD_SEGMENT_VERSION 21
#define MCRD_VIOLATION 113
#define MCRD_PID_PLACES 16
#define MCRD_GUARD_SEEDS 8
#define MCRD_GUARD_CONTENTS 16384
#define MCRD_GUARD_WAYS 2
#define MCRD_DEDUPE_PAYLOADS 65536
#define MCRD_GUARD_DETAILED 2147483648
#define MCRD_LEGS 4
#define MCRD_SKEWS 24
#define MCRD_MERGE_COPIES 262144

/* Why a frame was not relayed; nowhere else is there a list of it. The name of a counter is the one here without DROP_, in
 * small letters; one that struct rule_counters has too is counted for the rule as well. The tests say which documents
 * have to explain a new one. The first nine stand in the order in which they are tried; what comes back or
 * is a duplicate is dropped before a limit sees it. */
enum drop {
	DROP_MALFORMED,    /* lengths contradict each other, or headers make no sense */
	DROP_BAD_CHECKSUM, /* of IPv4 or UDP; over IPv6 also none */
	DROP_FRAGMENT,     /* of IPv6, or one that the kernel could not put together */
	DROP_TRUNCATED,    /* larger than a slot of the ring */
	DROP_WRONG_VLAN,   /* address and port of a rule, but another tag */
	DROP_WRONG_SOURCE, /* as above and the VLAN, but another source */
	DROP_OWN_OUTPUT,   /* comes from one of our own egress sockets */
	DROP_UNMATCHED,    /* no rule takes it */
	DROP_RATE_LIMITED, /* over the limit of the rule */
	DROP_LOOPED,       /* was relayed before, and somebody returns it: guard.h */
	DROP_CUT_OFF,      /* known contents, after a test that found a loop: breaker.h */
	DROP_DUPLICATE,    /* the payload was relayed just before, and the rule wants it once: dedupe.h */
	DROP_SECOND_COPY,  /* another leg of the rule has brought it before, or this one: merge.h */
	DROP_STANDBY_INPUT, /* another leg of the rule is in use: switch.h */
	DROP_TOO_LATE,     /* others that come after it in order have left: order.h */
	DROP_STANDBY,      /* another host relays what the rule takes: active_with in mcr.toml(5) */
	MCRD_DROP_REASONS
};

struct error_counter {
	uint64_t number;
	uint64_t count;
};

struct traffic {
	uint64_t packets; /* datagrams */
	uint64_t bytes;
};

/* What passed in a second, or in five: `tag` is which one, from the epoch; `peak` the most packets in 10 ms of it. */
struct span {
	uint64_t tag;
	struct traffic traffic;
	uint64_t peak;
};

/* See meter.h. */
struct meter {
	uint64_t changes;      /* odd while it is written */
	uint64_t window;       /* the open 10 ms, from the epoch */
	struct traffic before; /* what was counted when it was opened */
	struct span second;    /* the open second, but for that window */
	struct span seconds[MCRD_SECONDS];
	struct span fives[MCRD_FIVES]; /* of five seconds each */
};

/* Packets and bytes of the last whole second; of the last minute, which is `minute_seconds` long; and the most
 * packets in 10 ms of each. */
struct rates {
	struct traffic second;
	struct traffic minute;
	uint64_t minute_seconds;
	uint64_t second_peak;
	uint64_t minute_peak;
};

/* Who brought something back. */
struct returner {
	uint8_t address[16]; /* IPv4: the first four */
	uint8_t hardware[6]; /* all zero where the link has none */
	uint8_t family;      /* 4 or 6; 0: nobody */
	uint8_t unused;
};

struct rule_counters {
	struct traffic traffic;
	uint64_t rate_limited;
	uint64_t looped;
	uint64_t cut_off;
	uint64_t duplicate;
	uint64_t second_copy;
	uint64_t standby_input;
	uint64_t too_late;
	uint64_t standby;
	uint64_t backlog; /* datagrams that it has now, and that are in no other counter yet: backlog.h */
	uint64_t overheard; /* of `standby`: those that another host was heard to send */
	struct returner returner; /* the last one */
	struct meter meter;
};

/* What came by one interface. */
struct interface_counters {
	struct traffic traffic;
	uint64_t dropped[MCRD_DROP_REASONS];
	uint64_t frames[MCRD_RINGS];    /* that were given back to the kernel; */
	uint64_t taken[MCRD_RINGS];     /* that were dealt with: these, and those in hand; */
	uint64_t datagrams[MCRD_RINGS]; /* and what those stood for: of what a ring had no room for, only frames are known */
	struct meter meter;
};

/* Why an output did not send a datagram, unless it was an error; nowhere else is there a list of it, and the names here are
 * those of the counters. The tests say which documents have to explain a new one. */
struct output_drops {
	uint64_t rate_limited; /* over the limit of the output */
	uint64_t new_member;   /* it waited in vain for the sockets of its member, or could not wait */
	uint64_t unreachable;  /* there is no way to the host */
	uint64_t crashed;      /* the worker crashed, and had it in hand */
};

/* Why an output was not to send a datagram: these are no losses, and nowhere else is there a list of them. */
struct output_skips {
	uint64_t not_wanted;  /* of a source that it does not want */
	uint64_t not_sampled; /* of those that it wants, not one in its sample */
};

struct output_counters {
	struct traffic traffic;
	uint64_t refused;
	struct output_drops dropped;
	struct output_skips skipped;
	uint64_t turn;    /* of its sample: how many there were since the last one that was sent, with it; 0: send one */
	uint64_t waiting; /* now, for the sockets of their members */
	uint64_t late;    /* of answers: after their time */
	struct error_counter errors[MCRD_ERROR_PLACES];
	struct meter meter;
};

/* What makes two datagrams of several legs copies, see merge.h. */
enum merge_by {
	MERGE_NOTHING,
	MERGE_RTP,
	MERGE_SEQUENCE,
	MERGE_MOLDUDP64,
	MERGE_CONTENT
};

/* `offset`, `bytes` and `little` are of MERGE_SEQUENCE: where the number stands, in bytes, and its byte order. */
struct merge_settings {
	uint64_t stream; /* the same for all of its legs, and for nothing else */
	uint64_t delay;  /* so long does what comes after a gap wait, in ns; 0: it does not */
	uint32_t offset;
	uint8_t by;      /* enum merge_by */
	uint8_t leg;     /* which one it is, from 0 */
	uint8_t bytes;   /* 1 to 8 */
	uint8_t little;
};

/* How a leg fares. Datagrams. */
struct merge_counters {
	uint64_t received;
	uint64_t first;     /* no other leg had brought it before: they were relayed */
	uint64_t second;    /* another leg had */
	uint64_t repeated;  /* this leg had */
	uint64_t differs;   /* of the second ones: the number is the same, and the content is not */
	uint64_t only_here; /* of the first ones: no other leg has brought it since */
	uint64_t lost;      /* others brought it, and this one did not */
	uint64_t forgotten; /* of any leg, that made room for one of this leg within half a second */
	uint64_t shared;    /* of the first ones: another leg has brought them too */
	uint64_t late;      /* of the first ones: another leg had brought them longer ago than copies are known for */
	uint64_t held;      /* of the first ones, now: what comes before them in order is missing */
	uint64_t reordered; /* of the first ones: they came after others, and left before them */
	uint64_t hurried;   /* of the first ones: they left before their time, since there was no room */
	uint64_t skew_most; /* how much later than the first the second ones came, in ns; */
	uint64_t skews[MCRD_SKEWS]; /* below 2^n us each */
};

/* What passed: eight of them are two lines of the CPU's cache. */
struct merge_copy {
	uint64_t tag : 48;    /* 0: none */
	uint64_t behind : 16; /* how much less often each leg has said it than the one that says it most; 4 bits each */
	uint64_t time : 40;   /* when it passed, in us */
	uint64_t check : 16;
	uint64_t shared : 4;  /* bits of the legs that brought it after the */
	uint64_t first : 2;   /* one that brought it */
	uint64_t period : 2;  /* that it passed in */
};

/* One leg of several is in use, see switch.h. `copies` is which leg of which stream it is, and by what its datagrams are
 * told, so that none is relayed again after a switch; MERGE_NOTHING: by nothing. */
struct switch_settings {
	struct merge_settings copies;
	uint64_t silence; /* of the leg in use, in ns, before another takes over; 0: the rule does not switch */
	uint64_t back;    /* so long has a leg before it to be steady, in ns; 0: it never takes over */
	uint8_t chosen;   /* the leg that somebody wants used, from 1; 0: as they flow */
};

/* Why a leg is in use. */
enum switch_reason {
	SWITCH_NEVER,
	SWITCH_FIRST,  /* nothing had come by another before */
	SWITCH_SILENT, /* the one before was */
	SWITCH_STEADY, /* it has been, and is before the other in order */
	SWITCH_CHOSEN, /* by hand */
	SWITCH_GONE    /* the one before is not there any more */
};

/* Times are in nanoseconds from the epoch. What is below `since` is of that switch. */
struct switch_counters {
	uint64_t last;     /* when it brought something */
	uint64_t steady;   /* since when it has not been silent */
	uint64_t used;     /* 1: it is in use */
	uint64_t switches; /* to it, from another */
	uint64_t since;    /* when it was taken into use last */
	uint64_t why;      /* enum switch_reason */
	uint64_t before;   /* which one was in use before, from 1; 0: none */
	uint64_t silent;   /* how long that one had been, in ns */
};

/* What a rule finds in its payloads, see inspect.h. */
enum inspect_format {
	INSPECT_NOTHING,
	INSPECT_RTP,
	INSPECT_MPEG_TS,
	INSPECT_MOLDUDP64,
	INSPECT_SEQUENCE,
	INSPECT_AUTO
};

/* `offset` to `little` are of INSPECT_SEQUENCE: where the number stands, in bytes, and its byte order. */
struct inspect_settings {
	uint32_t offset;
	uint8_t format; /* enum inspect_format */
	uint8_t bytes;  /* 1 to 8 */
	uint8_t little;
	uint8_t unused;
};

struct inspect_event {
	uint64_t count; /* within the second that the last one was in */
	uint64_t at;    /* when the last one was: the time of a frame, in ns; 0: never */
};

/* Continuity errors of a PID. `pid` is one more than it; 0: nobody's place. */
struct pid_counter {
	uint64_t pid;
	uint64_t errors;
};

/* What a stream shows of the network before this host. Times are in nanoseconds. Datagrams, unless said otherwise. */
struct inspect_counters {
	uint64_t inspected;      /* all that were looked at */
	uint64_t not_inspected;  /* of flows for which there was no room */
	uint64_t other;          /* not of the format */
	uint64_t lost;           /* given up; of MoldUDP64, messages */
	uint64_t missing;        /* not here yet, and not given up: it may go down */
	uint64_t gaps;           /* how often something was missing */
	uint64_t reordered;
	uint64_t repeated;       /* came before, or after it was given up */
	uint64_t stray;          /* with a number far from all others */
	uint64_t resets;         /* the numbers began anew */
	uint64_t changes;        /* of the SSRC or session */
	uint64_t longest_gap;    /* the most that were missing in a row */
	uint64_t longest_silence;
	uint64_t jitter;         /* RFC 3550, section 6.4.1; of the flow where it is worst */
	uint64_t jitter_most;
	uint64_t messages;       /* of MoldUDP64 */
	uint64_t ts_packets;     /* of MPEG-TS, as all that follow */
	uint64_t continuity;     /* errors of the continuity counter */
	uint64_t duplicates;     /* packets that are allowed to come twice, and did */
	uint64_t sync;           /* packets without the sync byte */
	uint64_t transport;      /* packets with the transport error indicator */
	uint64_t pcr_interval;   /* the longest between two PCRs, by what they say */
	uint64_t pcr_jitter;     /* how far they come from the times that they say, as the other jitter */
	uint64_t pcr_jitter_most;
	uint64_t pcr_jumps;      /* backwards or by over a second, without a discontinuity indicator */
	uint64_t seen;           /* when the last one was looked at */
	uint64_t flows;          /* that are kept apart now */
	uint64_t formats;        /* bits of enum inspect_format that were found */
	uint64_t jitter_at;      /* when that was shown last */
	uint64_t pcr_jitter_at;
	struct inspect_event last_lost;
	struct inspect_event last_continuity;
	struct pid_counter pids[MCRD_PID_PLACES]; /* the last place is for all that found none */
};

/* Datagrams of one output that are on their way from a ring to its socket: egress.h. A worker that ends leaves them here. */
struct in_hand {
	uint32_t output;    /* its slot */
	uint32_t length;    /* of each but the last, bytes */
	uint32_t datagrams; /* neither sent nor given up; */
	uint32_t under_way; /* of these, what the kernel has been given */
};

/* The frame that a worker deals with: what of it is in counters already, should the worker crash now. It is as long as the
 * rest of a line of the CPU's cache, so that sets of copies begin where one does. */
struct at_work {
	uint32_t datagrams; /* that the frame stands for; 0: none of it is in any counter */
	uint32_t done;      /* of these */
	uint32_t rule;      /* the slot of the one that takes them */
	uint32_t given;     /* one more than how many outputs have had the next one; 0: the rule has not counted it */
	uint32_t waits;     /* 1: of these, not those whose member is not open */
	uint32_t bytes;     /* of the frame */
	uint32_t ring;      /* which of the interface's two it is in */
	uint32_t unused;
};

struct segment {
	uint64_t version;
	uint64_t positions[MCRD_POSITIONS]; /* the first two stay here in every version: an upgrade reads them */
	uint64_t sent;   /* datagrams of all outputs, */
	uint64_t failed; /* and those that were not: who watches errors need not look at each */
	uint64_t first_in_hand; /* when the first frame came that `copies` may know and that is not sent, in ns; 0: none */
	struct at_work at_work;
	struct merge_copy copies[MCRD_MERGE_COPIES];
	struct interface_counters interfaces[MCRD_INTERFACES];
	struct rule_counters rules[MCRD_RULE_SLOTS];
	struct output_counters outputs[MCRD_OUTPUT_SLOTS];
	struct in_hand in_hand[MCRD_RUNS];
	uint64_t submitted; /* 1: the kernel has been given what is `under_way`; else it is prepared */
	uint64_t members[MCRD_MEMBER_SLOTS]; /* when each was last used: the time of a frame, in nanoseconds */
	struct inspect_counters inspections[MCRD_RULE_SLOTS];
	struct merge_counters merges[MCRD_RULE_SLOTS];
	struct switch_counters switches[MCRD_RULE_SLOTS];
};

/* Something that was said; see guard.h. Most is said once: the rest is made of this when it is said again. */
struct guard_content {
	uint32_t tag;
	uint32_t first;  /* who said it first, */
	uint32_t count;  /* and how often; MCRD_GUARD_DETAILED: what follows is there too */
	uint32_t passed; /* when it was relayed last, whoever said it, in ms */
};

struct guard_details {
	uint32_t passes; /* how often it was relayed, whoever said it */
	uint32_t seen;   /* when the first said it last, */
	uint32_t born;   /* and for the first time, in ms */
	uint32_t whole;  /* of all bytes; 0: not known */
};

/* A payload of a rule that takes each only once; see dedupe.h. */
struct dedupe_payload {
	uint64_t tag;    /* 0: none */
	uint32_t passed; /* when it was relayed, in ms */
	uint32_t unused;
};

/* Shared by all workers of a daemon. */
struct guard_memory {
	uint64_t seed[MCRD_GUARD_SEEDS];
	uint32_t armed; /* when something came back last, in ms; 0: never */
	uint32_t unused[15];
	struct guard_content contents[MCRD_GUARD_CONTENTS];
	struct guard_details details[MCRD_GUARD_CONTENTS];
	struct dedupe_payload payloads[MCRD_DEDUPE_PAYLOADS];
};

#endif
