/*
 * How many datagrams come back to back: counted by a BPF program at an interface of the sink, on
 * the way in. Nothing is copied, woken, or sent to user space.
 *
 *   bursts INTERFACE
 *
 * Times are those of a wire of 10 Gbit/s, which takes a super-frame apart: a datagram belongs to
 * the burst before it when that wire was idle between them for less than GAP_NS. Begins anew on SIGUSR1, and tells in JSON on SIGTERM.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#define _GNU_SOURCE
#include "bpf.h"

#include <net/if.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>

enum {
    GAP_NS = 1000,
    HEADERS = 42,
    FRAMING = 24, /* preamble, checksum and gap of Ethernet */
    SIZES = 4096, /* longer bursts count as so long, but for the longest */
    NEXT = -1,    /* TCX_NEXT: the frame goes its way */
};

struct state {
    uint64_t until; /* ns, when the wire has sent all that came */
    uint64_t burst;
    uint64_t highest;
    uint64_t datagrams[SIZES + 1]; /* by the size of the burst they came in */
};

#define FIELD(name) ((int16_t)offsetof(struct state, name))

static void write_program(struct bpf_code *code, int map)
{
    bpf_emit(code, BPF_MOVE, 6, 1, 0, 0);
    bpf_emit(code, BPF_CALLS, 0, 0, 0, BPF_FUNC_ktime_get_ns);
    bpf_emit_map(code, 8, map, 1);

    bpf_emit(code, BPF_READ(BPF_W), 9, 6, offsetof(struct __sk_buff, gso_segs), 0);
    bpf_emit(code, BPF_JMP | BPF_JNE | BPF_K, 9, 0, 1, 0);
    bpf_emit(code, BPF_SET, 9, 0, 0, 1);

    /* until = max(until, now) + bits of the frame as it is on the wire / 10. */
    bpf_emit(code, BPF_READ(BPF_DW), 1, 8, FIELD(until), 0);
    bpf_emit(code, BPF_MOVE, 3, 1, 0, 0);
    bpf_emit(code, BPF_JMP | BPF_JGT | BPF_X, 3, 0, 1, 0);
    bpf_emit(code, BPF_MOVE, 3, 0, 0, 0);
    bpf_emit(code, BPF_MOVE, 4, 9, 0, 0);
    bpf_emit(code, BPF_ALU64 | BPF_MUL | BPF_K, 4, 0, 0, HEADERS + FRAMING);
    bpf_emit(code, BPF_READ(BPF_W), 5, 6, offsetof(struct __sk_buff, len), 0);
    bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_X, 4, 5, 0, 0);
    bpf_emit(code, BPF_ALU64 | BPF_SUB | BPF_K, 4, 0, 0, HEADERS); /* counted twice */
    bpf_emit(code, BPF_ALU64 | BPF_MUL | BPF_K, 4, 0, 0, 8);
    bpf_emit(code, BPF_ALU64 | BPF_DIV | BPF_K, 4, 0, 0, 10);
    bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_X, 3, 4, 0, 0);
    bpf_emit(code, BPF_WRITE(BPF_DW), 8, 3, FIELD(until), 0);

    bpf_emit(code, BPF_READ(BPF_DW), 2, 8, FIELD(burst), 0);
    bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_K, 1, 0, 0, GAP_NS);
    bpf_leave_above(code, 1, 0);

    /* The burst has ended. */
    bpf_emit(code, BPF_MOVE, 3, 2, 0, 0);
    bpf_emit(code, BPF_JMP | BPF_JLE | BPF_K, 3, 0, 1, SIZES);
    bpf_emit(code, BPF_SET, 3, 0, 0, SIZES);
    bpf_emit(code, BPF_ALU64 | BPF_LSH | BPF_K, 3, 0, 0, 3);
    bpf_emit(code, BPF_MOVE, 4, 8, 0, 0);
    bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_X, 4, 3, 0, 0);
    bpf_emit(code, BPF_READ(BPF_DW), 5, 4, FIELD(datagrams), 0);
    bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_X, 5, 2, 0, 0);
    bpf_emit(code, BPF_WRITE(BPF_DW), 4, 5, FIELD(datagrams), 0);
    bpf_emit(code, BPF_SET, 2, 0, 0, 0);

    bpf_land(code);
    bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_X, 2, 9, 0, 0);
    bpf_emit(code, BPF_WRITE(BPF_DW), 8, 2, FIELD(burst), 0);
    bpf_emit(code, BPF_READ(BPF_DW), 1, 8, FIELD(highest), 0);
    bpf_emit(code, BPF_JMP | BPF_JLE | BPF_X, 2, 1, 1, 0);
    bpf_emit(code, BPF_WRITE(BPF_DW), 8, 2, FIELD(highest), 0);
    bpf_emit(code, BPF_SET, 0, 0, 0, NEXT);
    bpf_emit(code, BPF_RETURNS, 0, 0, 0, 0);
}

/* The size of burst that this share of the datagrams did not exceed. */
static uint64_t within(const struct state *state, uint64_t all, double share)
{
    uint64_t seen = 0;
    for (uint32_t size = 0; size <= SIZES; size++) {
        seen += state->datagrams[size];
        if ((double)seen >= share * (double)all)
            return size;
    }
    return SIZES;
}

static void report(struct state *state)
{
    uint64_t all = 0;
    state->datagrams[state->burst < SIZES ? state->burst : SIZES] += state->burst;
    for (uint32_t size = 0; size <= SIZES; size++)
        all += state->datagrams[size];
    printf("{\"datagrams\": %llu, \"highest\": %llu, \"p50\": %llu, \"p99\": %llu}\n",
           (unsigned long long)all, (unsigned long long)state->highest,
           (unsigned long long)within(state, all, 0.5),
           (unsigned long long)within(state, all, 0.99));
}

int main(int argc, char **argv)
{
    static struct bpf_code code;
    static struct state state;
    static const struct state empty;
    uint32_t only = 0, interface = argc == 2 ? if_nametoindex(argv[1]) : 0;
    sigset_t signals;
    int number = 0;
    if (interface == 0) {
        fprintf(stderr, "usage: bursts INTERFACE\n");
        return 2;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);

    int map = bpf_map(BPF_MAP_TYPE_ARRAY, sizeof(only), sizeof(state), 1);
    write_program(&code, map);
    bpf_attach(bpf_load(BPF_PROG_TYPE_SCHED_CLS, 0, &code), interface, BPF_ATTACH_TCX_INGRESS, 0);
    printf("ready\n");
    fflush(stdout);
    while (sigwait(&signals, &number) == 0 && number == SIGUSR1)
        bpf_put(map, &only, &empty);
    bpf_get(map, &only, &state);
    report(&state);
    return 0;
}
