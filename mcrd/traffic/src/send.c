/*
 * The sender: evenly paced UDP datagrams whose payload a receiver can check.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#define _GNU_SOURCE
#include "traffic.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#define SECOND_NS 1000000000ull

enum {
    SPIN_NS = 50000,    /* a sleeper wakes this late at worst on a quiet machine */
    PAUSE_NS = 50000,   /* until a full transmit queue is tried again */
    ATTEMPTS = 4,       /* an error that an earlier datagram drew costs one of them */
};

struct traffic_sender {
    uint32_t flows;
    int *fds;
    uint32_t size;
    uint32_t burst;
    uint16_t run;
    double interval_ns; /* between bursts */
    uint64_t count;
    uint64_t base_ns; /* burst number `step` since base_ns is due at base_ns + step intervals */
    uint64_t step;
    uint32_t flow; /* whose turn it is */
    uint64_t *sequences;
    struct traffic_sent result;
    uint8_t payloads[TRAFFIC_PAYLOAD_MAX];
};

/* crc_table[k][b]: what byte b contributes to the CRC when k more bytes follow it. */
static uint32_t crc_table[8][256];

__attribute__((constructor)) static void crc_prepare(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
        crc_table[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t before = crc_table[k - 1][byte];
            crc_table[k][byte] = before >> 8 ^ crc_table[0][before & 0xFF];
        }
}

static uint32_t crc_add(uint32_t crc, const uint8_t *data, size_t length)
{
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        word = le64toh(word) ^ crc;
        crc = 0;
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++)
            crc ^= crc_table[7 - k][word >> 8 * k & 0xFF];
    }
    for (; length > 0; data++, length--)
        crc = crc >> 8 ^ crc_table[0][(crc ^ *data) & 0xFF];
    return crc;
}

uint32_t traffic_checksum(const uint8_t *payload, size_t length)
{
    size_t before = length < TRAFFIC_LONG_MIN ? 3 : 4;
    size_t after = length < TRAFFIC_LONG_MIN ? 4 : 8;
    uint32_t crc = crc_add(0xFFFFFFFFu, (const uint8_t *)"mcrg", 4);
    crc = crc_add(crc, payload, before);
    crc = crc_add(crc, payload + after, length - after);
    return ~crc;
}

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

/* Pseudo-random bytes that depend on the seed alone. */
static void scatter(uint8_t *at, size_t length, uint64_t seed)
{
    for (size_t done = 0; done < length; done += 8) {
        seed += 0x9E3779B97F4A7C15u;
        uint64_t word = (seed ^ seed >> 32) * 0xD6E8FEB86659FD93u;
        word ^= word >> 32;
        memcpy(at + done, &word, length - done < 8 ? length - done : 8);
    }
}

/* The low `bytes` bytes of value, most significant first. */
static void put(uint8_t *at, int bytes, uint64_t value)
{
    while (bytes-- > 0)
        *at++ = (uint8_t)(value >> 8 * bytes);
}

static void write_payload(const struct traffic_sender *sender, uint8_t *payload, uint64_t sequence,
                          uint64_t now)
{
    size_t size = sender->size;
    size_t header = 0;

    if (size < TRAFFIC_SHORT_MIN) {
        memcpy(payload, "mcr", size);
        return;
    }
    if (size < TRAFFIC_LONG_MIN) {
        put(payload, 3, sequence);
        header = TRAFFIC_SHORT_MIN;
    } else {
        put(payload, 4, sequence);
        header = TRAFFIC_LONG_MIN;
    }
    if (size >= TRAFFIC_FLOW_END) {
        put(payload + 8, 2, sender->flow);
        header = TRAFFIC_FLOW_END;
    }
    if (size >= TRAFFIC_RUN_END) {
        put(payload + 10, 2, sender->run);
        header = TRAFFIC_RUN_END;
    }
    if (size >= TRAFFIC_TIME_END) {
        put(payload + 12, 6, now);
        header = TRAFFIC_TIME_END;
    }
    scatter(payload + header, size - header,
            (uint64_t)sender->run << 48 ^ (uint64_t)sender->flow << 40 ^ sequence);
    if (size < TRAFFIC_LONG_MIN)
        put(payload + 3, 1, traffic_checksum(payload, size));
    else
        put(payload + 4, 4, traffic_checksum(payload, size));
}

/*
 * Sleeps, and spins through the end, until the time has come; returns the time then. Returns early
 * when a signal comes.
 */
static uint64_t wait_until(uint64_t until)
{
    uint64_t now = clock_ns();
    if (now + SPIN_NS < until) {
        uint64_t wake = until - SPIN_NS;
        struct timespec at = {.tv_sec = (time_t)(wake / SECOND_NS),
                              .tv_nsec = (long)(wake % SECOND_NS)};
        if (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) != 0)
            return clock_ns();
        now = clock_ns();
    }
    while (now < until)
        now = clock_ns();
    return now;
}

/* 0 when these packets of the flow whose turn it is are sent, else an errno. */
static int transmit(struct traffic_sender *sender, uint32_t packets)
{
    int error = 0;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        size_t length = (size_t)packets * sender->size;
        if (send(sender->fds[sender->flow], sender->payloads, length, 0) >= 0)
            return 0;
        error = errno;
        if (error == EINTR || error == EAGAIN || error == ENOBUFS)
            return error;
        /* Perhaps an ICMP error about an earlier datagram: reporting it has cleared it. */
    }
    return error;
}

struct traffic_sender *traffic_sender_new(const int *fds, uint32_t flows, uint32_t size,
                                          uint32_t burst, double interval_ns, uint64_t count,
                                          uint16_t run)
{
    struct traffic_sender *sender = calloc(1, sizeof(*sender));
    if (sender == NULL)
        return NULL;
    sender->fds = calloc(flows, sizeof(*sender->fds));
    sender->sequences = calloc(flows, sizeof(*sender->sequences));
    if (sender->fds == NULL || sender->sequences == NULL) {
        traffic_sender_free(sender);
        return NULL;
    }
    memcpy(sender->fds, fds, flows * sizeof(*fds));
    sender->flows = flows;
    sender->size = size;
    sender->burst = burst;
    sender->interval_ns = interval_ns * burst;
    sender->count = count;
    sender->run = run;
    return sender;
}

/*
 * When the next burst is due. Behind by less than an interval the schedule stands, and the lost
 * time is made up, but no burst follows another by less than half an interval.
 */
static uint64_t due_ns(const struct traffic_sender *sender)
{
    uint64_t due = sender->base_ns + (uint64_t)((double)sender->step * sender->interval_ns);
    uint64_t soonest = sender->result.last_ns + (uint64_t)(sender->interval_ns / 2);
    return due > soonest ? due : soonest;
}

int traffic_send(struct traffic_sender *sender, uint64_t slice_ns)
{
    struct traffic_sent *result = &sender->result;
    uint64_t now = clock_ns();
    uint64_t end = now + slice_ns;

    prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul); /* the default of 50 us is a visible jitter */
    if (sender->base_ns == 0)
        sender->base_ns = now;
    while (sender->count == 0 || result->packets < sender->count) {
        uint64_t due = sender->interval_ns > 0 ? due_ns(sender) : 0;
        now = wait_until(due < end ? due : end);
        if (now < due || now >= end)
            return 1;
        uint64_t left = sender->count == 0 ? sender->burst : sender->count - result->packets;
        uint32_t packets = left < sender->burst ? (uint32_t)left : sender->burst;
        uint64_t *sequence = &sender->sequences[sender->flow];
        for (uint32_t i = 0; i < packets; i++)
            write_payload(sender, sender->payloads + (size_t)i * sender->size, *sequence + i, now);
        int error = transmit(sender, packets);
        if (error == ENOBUFS) {
            struct timespec pause = {.tv_nsec = PAUSE_NS};
            nanosleep(&pause, NULL);
            continue;
        }
        if (error == EINTR || error == EAGAIN)
            return 1;
        if (error != 0)
            return -error;
        if (sender->interval_ns > 0 && (double)(now - due) > sender->interval_ns) {
            /* Too late to make up without a burst: the rest of the schedule moves along. */
            result->late++;
            result->late_ns += now - due;
            sender->base_ns = now;
            sender->step = 0;
        }
        if (result->packets == 0)
            result->first_ns = now;
        result->packets += packets;
        result->last_ns = now;
        sender->step++;
        *sequence += packets;
        if (++sender->flow == sender->flows)
            sender->flow = 0;
    }
    return 0;
}

void traffic_sender_result(const struct traffic_sender *sender, struct traffic_sent *result)
{
    *result = sender->result;
}

void traffic_sender_free(struct traffic_sender *sender)
{
    if (sender == NULL)
        return;
    free(sender->fds);
    free(sender->sequences);
    free(sender);
}
