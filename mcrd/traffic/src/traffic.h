/*
 * The test traffic of mcrgen: what a payload carries, and the two loops that send and check it.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#ifndef MCRD_TRAFFIC_H
#define MCRD_TRAFFIC_H

#include <stddef.h>
#include <stdint.h>

/*
 * The payload, numbers in network byte order. A field is there when it fits whole; where the next
 * one does not fit, and behind the last one, follow pseudo-random bytes that differ from packet to
 * packet.
 *
 *   length    offset  bytes  field
 *   1 to 3         0    all  the beginning of "mcr"
 *   4 to 7         0      3  sequence number, modulo 2^24
 *                  3      1  checksum, its low 8 bits
 *   8 or more      0      4  sequence number, modulo 2^32
 *                  4      4  checksum
 *                  8      2  flow
 *                 10      2  run: a random number for each run of the sender
 *                 12      6  CLOCK_MONOTONIC in nanoseconds just before sending, modulo 2^48
 *
 * The checksum is the CRC-32 of Ethernet over the four bytes "mcrg" followed by the payload without
 * the checksum itself. "mcrg" is the magic number, at no cost in payload.
 */
enum {
    TRAFFIC_SHORT_MIN = 4,
    TRAFFIC_LONG_MIN = 8,
    TRAFFIC_FLOW_END = 10,
    TRAFFIC_RUN_END = 12,
    TRAFFIC_TIME_END = 18,
    TRAFFIC_PAYLOAD_MAX = 65535,
};

#define TRAFFIC_TIME_BITS 48

/* Of a payload of at least TRAFFIC_SHORT_MIN bytes; the place of the checksum is left out. */
uint32_t traffic_checksum(const uint8_t *payload, size_t length);

/* From here on also read by cffi (../build.py). */

struct traffic_sent {
    uint64_t packets;
    uint64_t first_ns; /* CLOCK_MONOTONIC just before the first and the last packet */
    uint64_t last_ns;
    uint64_t late;    /* how often the schedule was shifted, */
    uint64_t late_ns; /* and by how much in all */
};

struct traffic_received {
    uint64_t unique;
    uint64_t bytes; /* payload of the unique packets */
    uint64_t missing; /* between the lowest and the highest sequence number, over all flows */
    uint64_t duplicated;
    uint64_t reordered;
    uint64_t corrupt;
    uint64_t unsequenced;
    uint64_t sequences; /* how many sequence spaces (flows of a run) were seen */
    uint64_t last_ns; /* CLOCK_MONOTONIC of the last arrival; 0 before the first */
    uint64_t measured; /* packets whose latency is known */
    uint64_t p50_ns;
    uint64_t p99_ns;
};

struct traffic_sender;
struct traffic_receiver;

/*
 * fds: one blocking, connected socket a flow. burst: packets of one call; above 1 the sockets have
 * UDP_SEGMENT set to size. interval_ns is between packets; 0 sends without a pause; count 0 without
 * an end. NULL without memory.
 */
struct traffic_sender *traffic_sender_new(const int *fds, uint32_t flows, uint32_t size,
                                          uint32_t burst, double interval_ns, uint64_t count,
                                          uint16_t run);
/* Sends for at most slice_ns. 1: call again; 0: count is reached; negative: an errno. */
int traffic_send(struct traffic_sender *sender, uint64_t slice_ns);
void traffic_sender_result(const struct traffic_sender *sender, struct traffic_sent *result);
void traffic_sender_free(struct traffic_sender *sender);

/*
 * fds: one non-blocking socket a flow, with SO_TIMESTAMPNS. source: NULL, or the one address
 * whose packets count: 16 bytes, of which IPv4 uses the first 4. NULL with errno set on failure.
 */
struct traffic_receiver *traffic_receiver_new(const int *fds, uint32_t flows, int family,
                                              const uint8_t *source);
/* Receives for slice_ns, less when a signal comes. 0, or a negative errno. */
int traffic_receive(struct traffic_receiver *receiver, uint64_t slice_ns);
void traffic_receiver_result(const struct traffic_receiver *receiver,
                             struct traffic_received *result);
void traffic_receiver_free(struct traffic_receiver *receiver);

/* End of what cffi reads. */

#endif
