/*
 * What the relays of the benchmark share: flows and their outputs, sockets, and finding the flow
 * of a frame.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#ifndef BENCH_RELAY_H
#define BENCH_RELAY_H

#include <stddef.h>
#include <stdint.h>

enum {
    RELAY_FLOWS_MAX = 256,
    RELAY_OUTPUTS_MAX = 64,
    RELAY_FRAME_MAX = 9216, /* the benchmark sends no frame that is longer */
};

struct relay_flow {
    uint32_t group; /* network order */
    uint32_t outputs;
    int fds[RELAY_OUTPUTS_MAX];
};

struct relay {
    int input;   /* AF_PACKET */
    int signals; /* readable when it is time to stop */
    uint16_t port;
    uint32_t flows;
    struct relay_flow flow[RELAY_FLOWS_MAX];
    const struct relay_flow *by_octet[256]; /* the groups differ in their last octet */
    uint64_t errors; /* datagrams not sent */
};

/*
 * Opens everything. rules: a file with a line for each output, the flow's lines in a row:
 *   GROUP OUT_INTERFACE OUT_SOURCE OUT_GROUP
 * Ports are `port` on the way in and port + 1000 on the way out. Ends the process on failure.
 */
void relay_open(struct relay *relay, const char *interface, uint16_t port, const char *rules);

/* The flow of a frame, or NULL; sets where its payload is. */
const struct relay_flow *relay_find(const struct relay *relay, const uint8_t *frame, size_t length,
                                    const uint8_t **payload, size_t *size);

/* One line of JSON: what the kernel dropped before the relay, and what was not sent. */
void relay_report(const struct relay *relay);

void relay_fail(const char *what, int error) __attribute__((noreturn));

#endif
