/*
 * A relay with what io_uring can do since Linux 6.0: one multishot receive on a packet socket into
 * provided buffers, and one send for each packet and output.
 *
 *   multishot INTERFACE PORT RULES
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
#include <sys/mman.h>

enum {
    BUFFERS = 1024, /* a power of two */
    GROUP = 0,
    ENTRIES = 4096,
};

enum { RECEIVE, SEND, STOP };

static struct relay relay;
static struct io_uring ring;
static struct io_uring_buf_ring *provided;
static uint8_t (*buffers)[RELAY_FRAME_MAX];
static uint32_t pending[BUFFERS]; /* sends from each buffer */
static bool armed;

static struct io_uring_sqe *entry(void)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    while (sqe == NULL) {
        io_uring_submit(&ring);
        sqe = io_uring_get_sqe(&ring);
    }
    return sqe;
}

static void arm(void)
{
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_recv_multishot(sqe, relay.input, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = GROUP;
    io_uring_sqe_set_data64(sqe, (uint64_t)RECEIVE << 32);
    armed = true;
}

static void give_back(uint32_t buffer)
{
    io_uring_buf_ring_add(provided, buffers[buffer], RELAY_FRAME_MAX, (unsigned short)buffer,
                          io_uring_buf_ring_mask(BUFFERS), 0);
    io_uring_buf_ring_advance(provided, 1);
}

static void provide(void)
{
    size_t length = BUFFERS * sizeof(struct io_uring_buf);
    provided = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (provided == MAP_FAILED)
        relay_fail("buffer ring", errno);
    struct io_uring_buf_reg registration = {
        .ring_addr = (uintptr_t)provided, .ring_entries = BUFFERS, .bgid = GROUP};
    int error = io_uring_register_buf_ring(&ring, &registration, 0);
    if (error < 0)
        relay_fail("buffer ring", -error);
    io_uring_buf_ring_init(provided);
    for (uint32_t buffer = 0; buffer < BUFFERS; buffer++)
        give_back(buffer);
}

static void received(uint32_t buffer, size_t length)
{
    const uint8_t *payload;
    size_t size;
    const struct relay_flow *flow = relay_find(&relay, buffers[buffer], length, &payload, &size);
    if (flow == NULL) {
        give_back(buffer);
        return;
    }
    pending[buffer] = flow->outputs;
    for (uint32_t i = 0; i < flow->outputs; i++) {
        struct io_uring_sqe *sqe = entry();
        io_uring_prep_send(sqe, flow->fds[i], payload, size, 0);
        io_uring_sqe_set_data64(sqe, (uint64_t)SEND << 32 | buffer);
    }
}

/* Whether it was the signal to stop. */
static bool completed(const struct io_uring_cqe *cqe)
{
    uint32_t buffer = (uint32_t)cqe->user_data;
    switch (cqe->user_data >> 32) {
    case RECEIVE:
        if (!(cqe->flags & IORING_CQE_F_MORE))
            armed = false; /* also when it ran out of buffers */
        if (cqe->res >= 0 && cqe->flags & IORING_CQE_F_BUFFER)
            received(cqe->flags >> IORING_CQE_BUFFER_SHIFT, (size_t)cqe->res);
        return false;
    case SEND:
        if (cqe->res < 0)
            relay.errors++;
        if (--pending[buffer] == 0)
            give_back(buffer);
        return false;
    default:
        return true;
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: multishot INTERFACE PORT RULES\n");
        return 2;
    }
    relay_open(&relay, argv[1], (uint16_t)atoi(argv[2]), argv[3]);
    buffers = malloc(sizeof(*buffers) * BUFFERS);
    if (buffers == NULL)
        relay_fail("memory", ENOMEM);

    struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
                                              IORING_SETUP_DEFER_TASKRUN,
                                     .cq_entries = 16 * ENTRIES};
    int error = io_uring_queue_init_params(ENTRIES, &ring, &params);
    if (error < 0)
        relay_fail("io_uring", -error);
    provide();
    struct io_uring_sqe *sqe = entry();
    io_uring_prep_poll_add(sqe, relay.signals, POLLIN);
    io_uring_sqe_set_data64(sqe, (uint64_t)STOP << 32);
    printf("ready\n");
    fflush(stdout);

    bool stopping = false;
    while (!stopping) {
        struct io_uring_cqe *cqe;
        unsigned int head, count = 0;
        if (!armed)
            arm();
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
