/*
 * BPF without a compiler or a library for it: programs instruction by instruction, and bpf(2).
 *
 * All that is made here ends with the process: maps and programs by their last descriptor, and
 * what is attached by a link, which is a descriptor as well.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#ifndef BENCH_BPF_H
#define BENCH_BPF_H

#include <linux/bpf.h>
#include <stdint.h>

enum {
    BPF_CODE_MAX = 8192,
    BPF_EXITS_MAX = 32,
    BPF_ATTACH_TCX_INGRESS = 46, /* BPF_TCX_INGRESS of Linux 6.6, which older headers lack */
};

/* A program while it is written. Jumps to what is still to come are filled in by bpf_land. */
struct bpf_code {
    struct bpf_insn insn[BPF_CODE_MAX];
    uint32_t length;
    uint32_t exits[BPF_EXITS_MAX];
    uint32_t exit_count;
};

/* One instruction; the fields are those of struct bpf_insn. */
void bpf_emit(struct bpf_code *code, uint8_t op, uint8_t to, uint8_t from, int16_t off, int32_t imm);

/* A register gets a map, or with `value` the address of the only entry of an array. */
void bpf_emit_map(struct bpf_code *code, uint8_t to, int map, int value);

/* A conditional jump to the next bpf_land. */
void bpf_leave(struct bpf_code *code, uint8_t op, uint8_t to, int32_t imm);
void bpf_leave_above(struct bpf_code *code, uint8_t to, uint8_t from);
void bpf_land(struct bpf_code *code);

/* Register := the start of the frame, if it is UDP over IPv4 to the port in one piece and with 42
 * bytes in a row; leaves otherwise. Needs the context in register 6, and changes 2, 3 and 4. */
void bpf_emit_parse(struct bpf_code *code, uint32_t data, uint32_t data_end, uint16_t port);

/* The process ends with a message when the kernel refuses one of these. */
int bpf_map(enum bpf_map_type type, uint32_t key, uint32_t value, uint32_t entries);
void bpf_put(int map, const void *key, const void *value);
void bpf_get(int map, const void *key, void *value);
int bpf_load(enum bpf_prog_type type, uint32_t attach, const struct bpf_code *code);
int bpf_attach(int program, uint32_t interface, uint32_t attach, uint32_t flags);

#define BPF_MOVE (BPF_ALU64 | BPF_MOV | BPF_X)
#define BPF_SET (BPF_ALU64 | BPF_MOV | BPF_K)
#define BPF_READ(size) (BPF_LDX | BPF_MEM | (size))
#define BPF_WRITE(size) (BPF_STX | BPF_MEM | (size))
#define BPF_CALLS (BPF_JMP | BPF_CALL)
#define BPF_RETURNS (BPF_JMP | BPF_EXIT)

#endif
