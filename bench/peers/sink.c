/*
 * The receiver that measures latency: from just before the generator's send to the moment when the
 * sink's kernel took the frame.
 *
 *   sink INTERFACE_ADDRESS GROUP PORT EVERY
 *
 * It sleeps and looks once a millisecond, so no packet wakes it, and keeps one packet in EVERY (a
 * power of two): what it costs falls on the generator's CPU and stays small. Begins at the first
 * packet, anew on SIGUSR1, and tells in JSON on SIGTERM.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
    SAMPLES_MAX = 1 << 22,
    BUFFER = 64 * 1024 * 1024,
    LOOK_NS = 1000000,
    HEADER = 16, /* of the generator's payload */
};

static volatile sig_atomic_t stopped, begin;
static uint32_t samples[SAMPLES_MAX]; /* ns */

static void handle(int number)
{
    if (number == SIGUSR1)
        begin = 1;
    else
        stopped = 1;
}

static void fail(const char *what)
{
    fprintf(stderr, "sink: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_socket(struct in_addr local, struct in_addr group, uint16_t port, uint32_t every)
{
    int one = 1, buffer = BUFFER;
    struct ip_mreqn join = {.imr_multiaddr = group, .imr_address = local};
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = group};
    /* The sequence number follows the UDP header, at which the filter begins. */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 8),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, every - 1, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xFFFF),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof(join)) < 0)
        fail("socket");
    return fd;
}

/* 1 with the latency, 0 for a packet without one, -1 when there is no packet. */
static int take(int fd, uint32_t *latency)
{
    uint8_t payload[HEADER];
    _Alignas(struct cmsghdr) char control[64];
    struct iovec vector = {payload, sizeof(payload)};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
    struct timespec at;
    uint64_t sent;
    ssize_t length = recvmsg(fd, &message, MSG_DONTWAIT);
    if (length < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return -1;
        fail("recvmsg");
    }
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    if (length < HEADER || memcmp(payload + 6, "mb", 2) != 0 || part == NULL ||
        part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_TIMESTAMPNS)
        return 0;
    memcpy(&at, CMSG_DATA(part), sizeof(at));
    memcpy(&sent, payload + 8, sizeof(sent));
    int64_t took = (int64_t)((uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec) -
                   (int64_t)be64toh(sent);
    *latency = took < 0 ? 0 : took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    return 1;
}

static int compare(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static double percentile(uint32_t count, double share)
{
    return samples[(uint32_t)((double)(count - 1) * share)] / 1000.0;
}

int main(int argc, char **argv)
{
    struct in_addr local, group;
    if (argc != 5 || !inet_aton(argv[1], &local) || !inet_aton(argv[2], &group)) {
        fprintf(stderr, "usage: sink INTERFACE_ADDRESS GROUP PORT EVERY\n");
        return 2;
    }
    struct sigaction action = {.sa_handler = handle};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    memset(samples, 0, sizeof(samples)); /* page faults now rather than later */
    int fd = open_socket(local, group, (uint16_t)atoi(argv[3]), (uint32_t)atoi(argv[4]));
    printf("ready\n");
    fflush(stdout);

    uint32_t count = 0;
    while (!stopped) {
        uint32_t latency;
        int taken;
        while ((taken = take(fd, &latency)) >= 0)
            if (taken > 0 && count < SAMPLES_MAX)
                samples[count++] = latency;
        if (begin) {
            begin = 0;
            count = 0;
        }
        struct timespec pause = {.tv_nsec = LOOK_NS};
        nanosleep(&pause, NULL);
    }
    qsort(samples, count, sizeof(samples[0]), compare);
    if (count == 0)
        printf("{\"measured\": 0, \"p50\": 0, \"p99\": 0, \"p999\": 0, \"p9999\": 0}\n");
    else
        printf("{\"measured\": %u, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"p9999\": %.1f}\n", count,
               percentile(count, 0.5), percentile(count, 0.99), percentile(count, 0.999),
               percentile(count, 0.9999));
    return 0;
}
