/*
 * BPF without a compiler or a library for it. See bpf.h.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#define _GNU_SOURCE
#include "bpf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    HEADERS = 42,
    AT_TYPE = 12,
    AT_VERSION = 14,
    AT_FRAGMENT = 20,
    AT_PROTOCOL = 23,
    AT_PORT = 36,
    LOG_SIZE = 1 << 20,
};

static void fail(const char *what)
{
    fprintf(stderr, "bpf(2): %s: %s\n", what, strerror(errno));
    exit(1);
}

static int call(int command, union bpf_attr *attr)
{
    return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

void bpf_emit(struct bpf_code *code, uint8_t op, uint8_t to, uint8_t from, int16_t off, int32_t imm)
{
    if (code->length == BPF_CODE_MAX) {
        errno = E2BIG;
        fail("program");
    }
    code->insn[code->length++] =
        (struct bpf_insn){.code = op, .dst_reg = to & 15, .src_reg = from & 15, .off = off, .imm = imm};
}

void bpf_emit_map(struct bpf_code *code, uint8_t to, int map, int value)
{
    uint8_t kind = value ? BPF_PSEUDO_MAP_VALUE : BPF_PSEUDO_MAP_FD;
    bpf_emit(code, BPF_LD | BPF_DW | BPF_IMM, to, kind, 0, map);
    bpf_emit(code, 0, 0, 0, 0, 0);
}

static void remember_exit(struct bpf_code *code)
{
    if (code->exit_count == BPF_EXITS_MAX) {
        errno = E2BIG;
        fail("jumps");
    }
    code->exits[code->exit_count++] = code->length;
}

void bpf_leave(struct bpf_code *code, uint8_t op, uint8_t to, int32_t imm)
{
    remember_exit(code);
    bpf_emit(code, BPF_JMP | BPF_K | op, to, 0, 0, imm);
}

void bpf_leave_above(struct bpf_code *code, uint8_t to, uint8_t from)
{
    remember_exit(code);
    bpf_emit(code, BPF_JMP | BPF_X | BPF_JGT, to, from, 0, 0);
}

void bpf_land(struct bpf_code *code)
{
    for (uint32_t i = 0; i < code->exit_count; i++)
        code->insn[code->exits[i]].off = (int16_t)(code->length - code->exits[i] - 1);
    code->exit_count = 0;
}

void bpf_emit_parse(struct bpf_code *code, uint32_t data, uint32_t data_end, uint16_t port)
{
    bpf_emit(code, BPF_READ(BPF_W), 2, 6, (int16_t)data, 0);
    bpf_emit(code, BPF_READ(BPF_W), 3, 6, (int16_t)data_end, 0);
    bpf_emit(code, BPF_MOVE, 4, 2, 0, 0);
    bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, HEADERS);
    bpf_leave_above(code, 4, 3);
    bpf_emit(code, BPF_READ(BPF_H), 4, 2, AT_TYPE, 0);
    bpf_leave(code, BPF_JNE, 4, htons(ETHERTYPE_IP));
    bpf_emit(code, BPF_READ(BPF_B), 4, 2, AT_VERSION, 0);
    bpf_leave(code, BPF_JNE, 4, 0x45); /* no options */
    bpf_emit(code, BPF_READ(BPF_B), 4, 2, AT_PROTOCOL, 0);
    bpf_leave(code, BPF_JNE, 4, IPPROTO_UDP);
    bpf_emit(code, BPF_READ(BPF_H), 4, 2, AT_FRAGMENT, 0);
    bpf_leave(code, BPF_JSET, 4, htons(0x3FFF)); /* more fragments, or not the first */
    bpf_emit(code, BPF_READ(BPF_H), 4, 2, AT_PORT, 0);
    bpf_leave(code, BPF_JNE, 4, htons(port));
}

int bpf_map(enum bpf_map_type type, uint32_t key, uint32_t value, uint32_t entries)
{
    union bpf_attr attr = {
        .map_type = type, .key_size = key, .value_size = value, .max_entries = entries};
    int map = call(BPF_MAP_CREATE, &attr);
    if (map < 0)
        fail("map");
    return map;
}

void bpf_put(int map, const void *key, const void *value)
{
    union bpf_attr attr = {.map_fd = (uint32_t)map,
                           .key = (uint64_t)(uintptr_t)key,
                           .value = (uint64_t)(uintptr_t)value};
    if (call(BPF_MAP_UPDATE_ELEM, &attr) < 0)
        fail("entry of a map");
}

void bpf_get(int map, const void *key, void *value)
{
    union bpf_attr attr = {.map_fd = (uint32_t)map,
                           .key = (uint64_t)(uintptr_t)key,
                           .value = (uint64_t)(uintptr_t)value};
    if (call(BPF_MAP_LOOKUP_ELEM, &attr) < 0)
        fail("entry of a map");
}

int bpf_load(enum bpf_prog_type type, uint32_t attach, const struct bpf_code *code)
{
    static const char license[] = "GPL";
    static char log[LOG_SIZE];
    union bpf_attr attr = {.prog_type = type,
                           .insn_cnt = code->length,
                           .insns = (uint64_t)(uintptr_t)code->insn,
                           .license = (uint64_t)(uintptr_t)license,
                           .expected_attach_type = attach};
    int program = call(BPF_PROG_LOAD, &attr);
    if (program >= 0)
        return program;
    int error = errno;
    attr.log_level = 1;
    attr.log_size = LOG_SIZE;
    attr.log_buf = (uint64_t)(uintptr_t)log;
    call(BPF_PROG_LOAD, &attr);
    fprintf(stderr, "%s", log);
    errno = error;
    fail("program");
    return -1;
}

int bpf_attach(int program, uint32_t interface, uint32_t attach, uint32_t flags)
{
    union bpf_attr attr = {.link_create = {.prog_fd = (uint32_t)program,
                                           .target_ifindex = interface,
                                           .attach_type = attach,
                                           .flags = flags}};
    int link = call(BPF_LINK_CREATE, &attr);
    if (link < 0)
        fail(attach == BPF_XDP ? "XDP on the interface" : "tcx on the interface (Linux 6.6)");
    return link;
}
