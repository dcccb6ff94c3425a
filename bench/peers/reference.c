/*
 * A relay as the Rust predecessor of mcrd was built: single-shot io_uring receives on a packet
 * socket, and one io_uring send for each packet and output.
 *
 *   reference INTERFACE PORT RULES [RECEIVES]
 *
 * All posted receives wake for every packet that finds the socket empty, so few are better than
 * many. RECEIVES is what was best for it.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#include "relay.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    RECEIVES = 16,
    RECEIVES_MAX = 1024,
    ENTRIES = 4096,
};

enum { RECEIVE, SEND, STOP };

struct slot {
    uint8_t frame[RELAY_FRAME_MAX];
    uint32_t pending; /* sends from this frame */
};

static struct relay relay;
static struct io_uring ring;
static struct slot *slots;

static struct io_uring_sqe *entry(void)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    while (sqe == NULL) {
        io_uring_submit(&ring);
        sqe = io_uring_get_sqe(&ring);
    }
    return sqe;
}

static void post_receive(uint32_t index)
{
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_recv(sqe, relay.input, slots[index].frame, RELAY_FRAME_MAX, 0);
    io_uring_sqe_set_data64(sqe, (uint64_t)RECEIVE << 32 | index);
}

static void received(uint32_t index, int length)
{
    const uint8_t *payload;
    size_t size;
    const struct relay_flow *flow =
        length < 0 ? NULL : relay_find(&relay, slots[index].frame, (size_t)length, &payload, &size);
    if (flow == NULL) {
        post_receive(index);
        return;
    }
    slots[index].pending = flow->outputs;
    for (uint32_t i = 0; i < flow->outputs; i++) {
        struct io_uring_sqe *sqe = entry();
        io_uring_prep_send(sqe, flow->fds[i], payload, size, 0);
        io_uring_sqe_set_data64(sqe, (uint64_t)SEND << 32 | index);
    }
}

/* Whether it was the signal to stop. */
static bool completed(const struct io_uring_cqe *cqe)
{
    uint32_t index = (uint32_t)cqe->user_data;
    switch (cqe->user_data >> 32) {
    case RECEIVE:
        received(index, cqe->res);
        return false;
    case SEND:
        if (cqe->res < 0)
            relay.errors++;
        if (--slots[index].pending == 0)
            post_receive(index);
        return false;
    default:
        return true;
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: reference INTERFACE PORT RULES [RECEIVES]\n");
        return 2;
    }
    int receives = argc > 4 ? atoi(argv[4]) : RECEIVES;
    if (receives < 1 || receives > RECEIVES_MAX)
        relay_fail("receives", EINVAL);
    relay_open(&relay, argv[1], (uint16_t)atoi(argv[2]), argv[3]);
    slots = calloc((size_t)receives, sizeof(*slots));
    if (slots == NULL)
        relay_fail("memory", ENOMEM);

    struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
                                              IORING_SETUP_COOP_TASKRUN,
                                     .cq_entries = 4 * ENTRIES};
    int error = io_uring_queue_init_params(ENTRIES, &ring, &params);
    if (error < 0)
        relay_fail("io_uring", -error);
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_poll_add(sqe, relay.signals, POLLIN);
    io_uring_sqe_set_data64(sqe, (uint64_t)STOP << 32);
    for (int i = 0; i < receives; i++)
        post_receive((uint32_t)i);
    printf("ready\n");
    fflush(stdout);

    bool stopping = false;
    while (!stopping) {
        struct io_uring_cqe *cqe;
        unsigned int head, count = 0;
        io_uring_submit_and_wait(&ring, 1);
        io_uring_for_each_cqe(&ring, head, cqe) {
            stopping |= completed(cqe);
            count++;
        }
        io_uring_cq_advance(&ring, count);
    }
    relay_report(&relay);
    return 0;
}
