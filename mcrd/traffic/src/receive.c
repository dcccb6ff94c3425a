/*
 * The receiver: tells for every datagram whether it is whole, new, a duplicate or out of order.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#define _GNU_SOURCE
#include "histogram.h"
#include "traffic.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ull

enum {
    BATCH = 64,
    ROUNDS = 8, /* batches of one socket before the others have their turn */
    EVENTS = 64,
    BUFFER = TRAFFIC_PAYLOAD_MAX + 1 + 192, /* not a power of two: those share cache sets */
    CONTROL = 64,

    CHUNK_BITS = 14, /* sequence numbers of one chunk, as a power of two */
    CHUNKS = 1024,   /* of one space: the window is 2^24 sequence numbers */
    SPACE_BITS = 15, /* slots of the hash table */
    SPACES = 16384,
};

/* A difference of clocks below this is jitter; further down, the clock is another host's. */
#define SKEW_NS 1000000

#define CHUNK_SIZE (1u << CHUNK_BITS)

struct chunk {
    uint32_t set;
    uint64_t bits[CHUNK_SIZE / 64];
};

/* Stands for every chunk of which all numbers have been seen: a stream without loss costs nothing. */
static struct chunk complete;

/* The sequence numbers of one flow in one run. They are unwrapped to 64 bits. */
struct space {
    uint64_t key;
    uint64_t lowest;
    uint64_t highest;
    uint64_t unique;
    struct chunk *chunks[CHUNKS]; /* of highest and the CHUNKS - 1 before it, as a ring */
};

struct traffic_receiver {
    int epoll;
    uint32_t flows;
    int *fds;
    int family;
    bool filtered;
    uint8_t source[16];
    struct traffic_received result;
    uint64_t secret[2]; /* of the hash: keys come from whoever sends */
    struct space *spaces[1u << SPACE_BITS];
    struct histogram latencies;
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH];
    struct sockaddr_storage names[BATCH];
    _Alignas(struct cmsghdr) uint8_t control[BATCH][CONTROL];
    uint8_t *buffers;
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

static uint64_t get(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    while (bytes-- > 0)
        value = value << 8 | *at++;
    return value;
}

static uint32_t slot_of(const struct traffic_receiver *receiver, uint64_t key)
{
    unsigned __int128 product = (unsigned __int128)(key ^ receiver->secret[0]) * receiver->secret[1];
    uint64_t folded = (uint64_t)(product >> 64) ^ (uint64_t)product;
    return (uint32_t)(folded * 0x9E3779B97F4A7C15u >> (64 - SPACE_BITS));
}

static bool draw_secret(struct traffic_receiver *receiver)
{
    ssize_t drawn = getrandom(receiver->secret, sizeof(receiver->secret), 0);
    return drawn == (ssize_t)sizeof(receiver->secret);
}

static struct space *find_space(struct traffic_receiver *receiver, uint64_t key)
{
    uint32_t mask = (1u << SPACE_BITS) - 1;
    uint32_t slot = slot_of(receiver, key);
    for (; receiver->spaces[slot] != NULL; slot = (slot + 1) & mask)
        if (receiver->spaces[slot]->key == key)
            return receiver->spaces[slot];
    if (receiver->result.sequences == SPACES)
        return NULL;
    struct space *space = calloc(1, sizeof(*space));
    if (space == NULL)
        return NULL;
    space->key = key;
    receiver->result.sequences++;
    return receiver->spaces[slot] = space;
}

static void forget(struct space *space, uint64_t chunk)
{
    struct chunk **slot = &space->chunks[chunk % CHUNKS];
    if (*slot != &complete)
        free(*slot);
    *slot = NULL;
}

/* Moves the window up so that its end holds this sequence number. */
static void advance(struct space *space, uint64_t sequence)
{
    uint64_t from = (space->highest >> CHUNK_BITS) + 1;
    uint64_t to = sequence >> CHUNK_BITS;
    if (to - from >= CHUNKS && to >= from)
        from = to - (CHUNKS - 1);
    for (; from <= to; from++)
        forget(space, from);
    space->highest = sequence;
}

enum seen { NEW, SEEN, UNKNOWN };

static enum seen mark(struct space *space, uint64_t sequence)
{
    struct chunk **slot = &space->chunks[(sequence >> CHUNK_BITS) % CHUNKS];
    if (*slot == &complete)
        return SEEN;
    if (*slot == NULL && (*slot = calloc(1, sizeof(**slot))) == NULL)
        return UNKNOWN;
    uint64_t *word = &(*slot)->bits[sequence % CHUNK_SIZE / 64];
    uint64_t bit = 1ull << sequence % 64;
    if (*word & bit)
        return SEEN;
    *word |= bit;
    if (++(*slot)->set == CHUNK_SIZE) {
        free(*slot);
        *slot = &complete;
    }
    return NEW;
}

/* Whether the packet is new; counts it as duplicated, reordered or unsequenced. */
static bool place(struct traffic_receiver *receiver, uint64_t key, uint32_t number, int bits)
{
    struct traffic_received *result = &receiver->result;
    struct space *space = find_space(receiver, key);
    if (space == NULL) {
        result->unsequenced++;
        return true;
    }
    bool first = space->unique == 0;
    if (first) /* far enough from 0 for lower numbers to come */
        space->lowest = space->highest = (1ull << 40) + number;
    int64_t ahead = (int32_t)((number - (uint32_t)space->highest) << (32 - bits)) >> (32 - bits);
    uint64_t sequence = space->highest + (uint64_t)ahead;
    if (ahead > 0)
        advance(space, sequence);
    else if ((space->highest >> CHUNK_BITS) - (sequence >> CHUNK_BITS) >= CHUNKS) {
        result->unsequenced++;
        return true;
    }
    switch (mark(space, sequence)) {
    case SEEN:
        result->duplicated++;
        return false;
    case UNKNOWN:
        result->unsequenced++;
        return true;
    case NEW:
        break;
    }
    space->unique++;
    if (sequence < space->lowest)
        space->lowest = sequence;
    if (!first && ahead < 0)
        result->reordered++; /* RFC 4737, section 3.3: lower than the next expected */
    return true;
}

static void measure(struct traffic_receiver *receiver, uint64_t sent, uint64_t arrived)
{
    int unused = 64 - TRAFFIC_TIME_BITS;
    int64_t ns = (int64_t)((arrived - sent) << unused) >> unused;
    if (ns < -SKEW_NS || ns >= HISTOGRAM_END)
        return;
    histogram_note(&receiver->latencies, ns < 0 ? 0 : (uint64_t)ns);
    receiver->result.measured++;
}

static bool intact(const uint8_t *payload, size_t length)
{
    if (length < TRAFFIC_SHORT_MIN)
        return memcmp(payload, "mcr", length) == 0;
    uint32_t checksum = traffic_checksum(payload, length);
    if (length < TRAFFIC_LONG_MIN)
        return payload[3] == (checksum & 0xFF);
    return get(payload + 4, 4) == checksum;
}

static void check(struct traffic_receiver *receiver, uint32_t flow, const uint8_t *payload,
                  size_t length, uint64_t arrived)
{
    struct traffic_received *result = &receiver->result;
    if (!intact(payload, length)) {
        result->corrupt++;
        return;
    }
    if (length < TRAFFIC_SHORT_MIN) {
        result->unsequenced++;
    } else {
        /* What does not fit is known in part all the same: the flow by the address. */
        bool small = length < TRAFFIC_LONG_MIN;
        uint64_t key = length >= TRAFFIC_FLOW_END ? 1ull << 32 | get(payload + 8, 2) : flow;
        if (length >= TRAFFIC_RUN_END)
            key |= 1ull << 33 | get(payload + 10, 2) << 16;
        if (small)
            key |= 1ull << 34;
        if (!place(receiver, key, (uint32_t)get(payload, small ? 3 : 4), small ? 24 : 32))
            return;
        if (length >= TRAFFIC_TIME_END && arrived != 0)
            measure(receiver, get(payload + 12, 6), arrived);
    }
    result->unique++;
    result->bytes += length;
}

static bool wanted(const struct traffic_receiver *receiver, const struct sockaddr_storage *from)
{
    if (!receiver->filtered)
        return true;
    if (receiver->family == AF_INET6)
        return memcmp(&((const struct sockaddr_in6 *)from)->sin6_addr, receiver->source, 16) == 0;
    return memcmp(&((const struct sockaddr_in *)from)->sin_addr, receiver->source, 4) == 0;
}

/* When the kernel took the frame (CLOCK_REALTIME), whatever kept this process from reading it. */
static uint64_t stamp_of(struct msghdr *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part))
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec at;
            memcpy(&at, CMSG_DATA(part), sizeof(at));
            return (uint64_t)at.tv_sec * SECOND_NS + (uint64_t)at.tv_nsec;
        }
    return 0;
}

/* One batch of one flow: the number of messages, or a negative errno. */
static int read_batch(struct traffic_receiver *receiver, uint32_t flow)
{
    for (int i = 0; i < BATCH; i++) {
        receiver->messages[i].msg_hdr.msg_namelen = sizeof(receiver->names[i]);
        receiver->messages[i].msg_hdr.msg_controllen = CONTROL;
    }
    int count = recvmmsg(receiver->fds[flow], receiver->messages, BATCH, MSG_DONTWAIT, NULL);
    if (count < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;

    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    /* Sampled anew each time, so that a step of the wall clock spoils at most one batch. */
    uint64_t offset = clock_ns(CLOCK_REALTIME) - now;
    for (int i = 0; i < count; i++) {
        if (!wanted(receiver, &receiver->names[i]))
            continue;
        uint64_t stamp = stamp_of(&receiver->messages[i].msg_hdr);
        receiver->result.last_ns = now;
        check(receiver, flow, receiver->buffers + (size_t)i * BUFFER, receiver->messages[i].msg_len,
              stamp ? stamp - offset : 0);
    }
    return count;
}

struct traffic_receiver *traffic_receiver_new(const int *fds, uint32_t flows, int family,
                                              const uint8_t *source)
{
    struct traffic_receiver *receiver = calloc(1, sizeof(*receiver));
    if (receiver == NULL)
        return NULL;
    receiver->epoll = epoll_create1(EPOLL_CLOEXEC);
    receiver->fds = calloc(flows, sizeof(*receiver->fds));
    receiver->buffers = malloc((size_t)BATCH * BUFFER);
    if (receiver->epoll < 0 || receiver->fds == NULL || receiver->buffers == NULL || !draw_secret(receiver))
        goto failed;
    receiver->flows = flows;
    receiver->family = family;
    if (source != NULL) {
        receiver->filtered = true;
        memcpy(receiver->source, source, sizeof(receiver->source));
    }
    for (int i = 0; i < BATCH; i++) {
        receiver->vectors[i].iov_base = receiver->buffers + (size_t)i * BUFFER;
        receiver->vectors[i].iov_len = TRAFFIC_PAYLOAD_MAX;
        receiver->messages[i].msg_hdr.msg_iov = &receiver->vectors[i];
        receiver->messages[i].msg_hdr.msg_iovlen = 1;
        receiver->messages[i].msg_hdr.msg_name = &receiver->names[i];
        receiver->messages[i].msg_hdr.msg_control = receiver->control[i];
    }
    for (uint32_t flow = 0; flow < flows; flow++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = flow};
        receiver->fds[flow] = fds[flow];
        if (epoll_ctl(receiver->epoll, EPOLL_CTL_ADD, fds[flow], &event) < 0)
            goto failed;
    }
    return receiver;

failed:;
    int error = errno;
    traffic_receiver_free(receiver);
    errno = error;
    return NULL;
}

int traffic_receive(struct traffic_receiver *receiver, uint64_t slice_ns)
{
    struct epoll_event events[EVENTS];
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    uint64_t end = now + slice_ns;
    for (; now < end; now = clock_ns(CLOCK_MONOTONIC)) {
        int left_ms = (int)((end - now + 999999) / 1000000);
        int ready = epoll_wait(receiver->epoll, events, EVENTS, left_ms);
        if (ready < 0)
            return errno == EINTR ? 0 : -errno;
        for (int i = 0; i < ready; i++) {
            int count = BATCH;
            for (int round = 0; count == BATCH && round < ROUNDS; round++) {
                count = read_batch(receiver, events[i].data.u32);
                if (count < 0)
                    return count;
            }
        }
    }
    return 0;
}

void traffic_receiver_result(const struct traffic_receiver *receiver,
                             struct traffic_received *result)
{
    *result = receiver->result;
    result->missing = 0;
    for (uint32_t slot = 0; slot < 1u << SPACE_BITS; slot++) {
        const struct space *space = receiver->spaces[slot];
        if (space != NULL && space->unique > 0)
            result->missing += space->highest - space->lowest + 1 - space->unique;
    }
    if (result->measured > 0) {
        result->p50_ns = histogram_percentile(&receiver->latencies, result->measured, 50);
        result->p99_ns = histogram_percentile(&receiver->latencies, result->measured, 99);
    }
}

void traffic_receiver_free(struct traffic_receiver *receiver)
{
    if (receiver == NULL)
        return;
    for (uint32_t slot = 0; slot < 1u << SPACE_BITS; slot++) {
        if (receiver->spaces[slot] == NULL)
            continue;
        for (uint64_t chunk = 0; chunk < CHUNKS; chunk++)
            forget(receiver->spaces[slot], chunk);
        free(receiver->spaces[slot]);
    }
    if (receiver->epoll >= 0)
        close(receiver->epoll);
    free(receiver->fds);
    free(receiver->buffers);
    free(receiver);
}
