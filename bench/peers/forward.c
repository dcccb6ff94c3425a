/*
 * A relay in the kernel, made of BPF programs.
 *
 *   forward xdp|tc INTERFACE PORT RULES [check]
 *
 * xdp: a program in the driver broadcasts the frame to the interfaces of a devmap; a second one,
 *      which the devmap runs at each, writes the addresses. Nothing becomes a packet of the stack.
 *      The outputs of all flows are the same interfaces, each of them once.
 * tc:  a program at the ingress writes the addresses for one output after the other, and sends
 *      with bpf_clone_redirect; the last with bpf_redirect.
 *
 * RULES as in relay.h. What is none of the flows goes to the host. Ends on SIGTERM, or with
 * `check` as soon as the kernel has taken the programs. It does not say what was lost.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#define _GNU_SOURCE
#include "bpf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    FLOWS_MAX = 256,
    OUTPUTS_MAX = 64,
    TTL = 8,
    AT_IP = 14,
    AT_TTL = 22,
    AT_IP_SUM = 24,
    AT_SOURCE = 26,
    AT_GROUP = 30,
    AT_PORT = 36,
    AT_UDP_SUM = 40,
};

/* What an output writes into the frame, as it lies there. */
struct output {
    uint8_t ethernet[2 * ETH_ALEN];
    uint32_t source;
    uint32_t group;
    uint32_t interface; /* 0: there is none */
};

struct flow {
    uint32_t group; /* network order */
    uint32_t outputs;
    struct output output[OUTPUTS_MAX];
};

/* The key of an output at its interface. */
struct at_interface {
    uint32_t interface;
    uint32_t group;
};

static struct flow flows[FLOWS_MAX];
static uint32_t flow_count;

#define OUTPUT(index, field)                                                                       \
    ((int16_t)(offsetof(struct flow, output) + (index) * sizeof(struct output) +                   \
               offsetof(struct output, field)))

static void fail(const char *what)
{
    fprintf(stderr, "forward: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void fill_output(struct output *output, const char *interface, const char *source,
                        const char *group)
{
    struct ifreq query = {0};
    struct in_addr from, to;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    memcpy(query.ifr_name, interface, strnlen(interface, IFNAMSIZ - 1));
    if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &query) < 0 || !inet_aton(source, &from) ||
        !inet_aton(group, &to))
        fail(interface);
    close(fd);
    output->interface = if_nametoindex(interface);
    output->source = from.s_addr;
    output->group = to.s_addr;
    uint32_t low = ntohl(to.s_addr);
    const uint8_t address[ETH_ALEN] = {
        0x01, 0x00, 0x5E, low >> 16 & 0x7F, low >> 8 & 0xFF, low & 0xFF};
    memcpy(output->ethernet, address, ETH_ALEN);
    memcpy(output->ethernet + ETH_ALEN, query.ifr_hwaddr.sa_data, ETH_ALEN);
}

static void read_rules(const char *path)
{
    char line[128], group[32], interface[IFNAMSIZ], source[32], to[32];
    struct flow *flow = NULL;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        fail(path);
    while (fgets(line, sizeof(line), file) != NULL) {
        struct in_addr address;
        errno = EINVAL;
        if (sscanf(line, "%31s %15s %31s %31s", group, interface, source, to) != 4 ||
            !inet_aton(group, &address))
            fail(path);
        if (flow == NULL || flow->group != address.s_addr) {
            if (flow_count == FLOWS_MAX)
                fail("too many flows");
            flow = &flows[flow_count++];
            flow->group = address.s_addr;
        }
        if (flow->outputs == OUTPUTS_MAX)
            fail("too many outputs");
        fill_output(&flow->output[flow->outputs++], interface, source, to);
    }
    fclose(file);
    if (flow_count == 0)
        fail("no rules");
}

/* A veth would deliver the groups without it; a switch would not. */
static void join_groups(uint32_t interface)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    for (uint32_t i = 0; i < flow_count; i++) {
        struct ip_mreqn join = {.imr_multiaddr.s_addr = flows[i].group,
                                .imr_ifindex = (int)interface};
        if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof(join)) < 0)
            fail("membership");
    }
}

static void call(struct bpf_code *code, int function)
{
    bpf_emit(code, BPF_CALLS, 0, 0, 0, function);
}

static void give(struct bpf_code *code, int32_t result)
{
    bpf_emit(code, BPF_SET, 0, 0, 0, result);
    bpf_emit(code, BPF_RETURNS, 0, 0, 0, 0);
}

/* Register 0 := the entry of the map by what lies in the last bytes of the stack, or leaves. */
static void look_up(struct bpf_code *code, int map, int32_t size)
{
    bpf_emit_map(code, 1, map, 0);
    bpf_emit(code, BPF_MOVE, 2, 10, 0, 0);
    bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -size);
    call(code, BPF_FUNC_map_lookup_elem);
    bpf_leave(code, BPF_JEQ, 0, 0);
}

/* At the input: a frame of a flow goes to every interface of the devmap. */
static int xdp_input(int wanted, int devices, uint16_t port)
{
    static struct bpf_code code;
    bpf_emit(&code, BPF_MOVE, 6, 1, 0, 0);
    bpf_emit_parse(&code, offsetof(struct xdp_md, data), offsetof(struct xdp_md, data_end), port);
    bpf_emit(&code, BPF_READ(BPF_W), 4, 2, AT_GROUP, 0);
    bpf_emit(&code, BPF_WRITE(BPF_W), 10, 4, -4, 0);
    look_up(&code, wanted, 4);
    bpf_emit_map(&code, 1, devices, 0);
    bpf_emit(&code, BPF_SET, 2, 0, 0, 0);
    bpf_emit(&code, BPF_SET, 3, 0, 0, BPF_F_BROADCAST);
    call(&code, BPF_FUNC_redirect_map);
    bpf_emit(&code, BPF_RETURNS, 0, 0, 0, 0);
    bpf_land(&code);
    give(&code, XDP_PASS);
    return bpf_load(BPF_PROG_TYPE_XDP, 0, &code);
}

/* The sum of an IP header without options, whose own is 0. Data in 2; uses 1 and 3. */
static void sum_header(struct bpf_code *code)
{
    bpf_emit(code, BPF_SET, 1, 0, 0, 0);
    for (int16_t at = AT_IP; at < AT_IP + 20; at += 2) {
        bpf_emit(code, BPF_READ(BPF_H), 3, 2, at, 0);
        bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_X, 1, 3, 0, 0);
    }
    for (int fold = 0; fold < 2; fold++) {
        bpf_emit(code, BPF_MOVE, 3, 1, 0, 0);
        bpf_emit(code, BPF_ALU64 | BPF_RSH | BPF_K, 3, 0, 0, 16);
        bpf_emit(code, BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, 0xFFFF);
        bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_X, 1, 3, 0, 0);
    }
    bpf_emit(code, BPF_ALU64 | BPF_XOR | BPF_K, 1, 0, 0, 0xFFFF);
    bpf_emit(code, BPF_WRITE(BPF_H), 2, 1, AT_IP_SUM, 0);
}

/*
 * At each output: the addresses are written. The UDP checksum becomes 0, which RFC 768 allows:
 * on a veth it has not been made yet when XDP sees the frame, and nobody would make it.
 */
static int xdp_output(int outputs, uint16_t port)
{
    static struct bpf_code code;
    bpf_emit(&code, BPF_MOVE, 6, 1, 0, 0);
    bpf_emit_parse(&code, offsetof(struct xdp_md, data), offsetof(struct xdp_md, data_end), port);
    bpf_emit(&code, BPF_MOVE, 7, 2, 0, 0);
    bpf_emit(&code, BPF_READ(BPF_W), 4, 6, offsetof(struct xdp_md, egress_ifindex), 0);
    bpf_emit(&code, BPF_WRITE(BPF_W), 10, 4, -8, 0);
    bpf_emit(&code, BPF_READ(BPF_W), 4, 2, AT_GROUP, 0);
    bpf_emit(&code, BPF_WRITE(BPF_W), 10, 4, -4, 0);
    look_up(&code, outputs, sizeof(struct at_interface));
    bpf_emit(&code, BPF_MOVE, 2, 7, 0, 0);
    for (int16_t at = 0; at < 2 * ETH_ALEN; at += 4) {
        bpf_emit(&code, BPF_READ(BPF_W), 1, 0, at, 0);
        bpf_emit(&code, BPF_WRITE(BPF_W), 2, 1, at, 0);
    }
    bpf_emit(&code, BPF_READ(BPF_W), 1, 0, offsetof(struct output, source), 0);
    bpf_emit(&code, BPF_WRITE(BPF_W), 2, 1, AT_SOURCE, 0);
    bpf_emit(&code, BPF_READ(BPF_W), 1, 0, offsetof(struct output, group), 0);
    bpf_emit(&code, BPF_WRITE(BPF_W), 2, 1, AT_GROUP, 0);
    bpf_emit(&code, BPF_ST | BPF_MEM | BPF_B, 2, 0, AT_TTL, TTL);
    bpf_emit(&code, BPF_ST | BPF_MEM | BPF_H, 2, 0, AT_PORT, htons((uint16_t)(port + 1000)));
    bpf_emit(&code, BPF_ST | BPF_MEM | BPF_H, 2, 0, AT_UDP_SUM, 0);
    bpf_emit(&code, BPF_ST | BPF_MEM | BPF_H, 2, 0, AT_IP_SUM, 0);
    sum_header(&code);
    give(&code, XDP_PASS);
    bpf_land(&code);
    give(&code, XDP_DROP);
    return bpf_load(BPF_PROG_TYPE_XDP, BPF_XDP_DEVMAP, &code);
}

static void attach_xdp(uint32_t interface, uint16_t port)
{
    int wanted = bpf_map(BPF_MAP_TYPE_HASH, 4, 4, FLOWS_MAX);
    int outputs = bpf_map(BPF_MAP_TYPE_HASH, sizeof(struct at_interface), sizeof(struct output),
                          FLOWS_MAX * OUTPUTS_MAX);
    int devices =
        bpf_map(BPF_MAP_TYPE_DEVMAP, 4, sizeof(struct bpf_devmap_val), flows[0].outputs);
    int program = xdp_output(outputs, port);
    for (uint32_t i = 0; i < flows[0].outputs; i++) {
        struct bpf_devmap_val device = {.ifindex = flows[0].output[i].interface,
                                        .bpf_prog.fd = program};
        bpf_put(devices, &i, &device);
    }
    for (uint32_t i = 0; i < flow_count; i++) {
        bpf_put(wanted, &flows[i].group, &i);
        for (uint32_t number = 0; number < flows[i].outputs; number++) {
            const struct output *output = &flows[i].output[number];
            struct at_interface key = {output->interface, flows[i].group};
            bpf_put(outputs, &key, output);
        }
    }
    bpf_attach(xdp_input(wanted, devices, port), interface, BPF_XDP, XDP_FLAGS_DRV_MODE);
}

/* Bytes of the frame := bytes of the flow's entry (in 8). */
static void store(struct bpf_code *code, int32_t at, int32_t from, int32_t size)
{
    bpf_emit(code, BPF_MOVE, 1, 6, 0, 0);
    bpf_emit(code, BPF_SET, 2, 0, 0, at);
    bpf_emit(code, BPF_MOVE, 3, 8, 0, 0);
    bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, from);
    bpf_emit(code, BPF_SET, 4, 0, 0, size);
    bpf_emit(code, BPF_SET, 5, 0, 0, 0);
    call(code, BPF_FUNC_skb_store_bytes);
}

/* A checksum follows an address that was in `old` and becomes that of the flow's entry. */
static void follow(struct bpf_code *code, int function, int32_t at, uint8_t old, int16_t from,
                   int32_t flags)
{
    bpf_emit(code, BPF_MOVE, 1, 6, 0, 0);
    bpf_emit(code, BPF_SET, 2, 0, 0, at);
    bpf_emit(code, BPF_MOVE, 3, old, 0, 0);
    bpf_emit(code, BPF_READ(BPF_W), 4, 8, from, 0);
    bpf_emit(code, BPF_SET, 5, 0, 0, flags);
    call(code, function);
}

static void follow_port(struct bpf_code *code, uint16_t port)
{
    bpf_emit(code, BPF_MOVE, 1, 6, 0, 0);
    bpf_emit(code, BPF_SET, 2, 0, 0, AT_UDP_SUM);
    bpf_emit(code, BPF_SET, 3, 0, 0, htons(port));
    bpf_emit(code, BPF_SET, 4, 0, 0, htons((uint16_t)(port + 1000)));
    bpf_emit(code, BPF_SET, 5, 0, 0, BPF_F_MARK_MANGLED_0 | 2);
    call(code, BPF_FUNC_l4_csum_replace);
    bpf_emit(code, BPF_ST | BPF_MEM | BPF_H, 10, 0, -2, htons((uint16_t)(port + 1000)));
    bpf_emit(code, BPF_MOVE, 1, 6, 0, 0);
    bpf_emit(code, BPF_SET, 2, 0, 0, AT_PORT);
    bpf_emit(code, BPF_MOVE, 3, 10, 0, 0);
    bpf_emit(code, BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, -2);
    bpf_emit(code, BPF_SET, 4, 0, 0, 2);
    bpf_emit(code, BPF_SET, 5, 0, 0, 0);
    call(code, BPF_FUNC_skb_store_bytes);
}

/* One output. The addresses in the frame are in 7 and 9, before and after it. */
static void tc_output(struct bpf_code *code, uint32_t index, int last)
{
    int32_t pseudo = BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | 4;
    int16_t source = OUTPUT(index, source), group = OUTPUT(index, group);
    follow(code, BPF_FUNC_l3_csum_replace, AT_IP_SUM, 7, source, 4);
    follow(code, BPF_FUNC_l3_csum_replace, AT_IP_SUM, 9, group, 4);
    follow(code, BPF_FUNC_l4_csum_replace, AT_UDP_SUM, 7, source, pseudo);
    follow(code, BPF_FUNC_l4_csum_replace, AT_UDP_SUM, 9, group, pseudo);
    store(code, 0, OUTPUT(index, ethernet), 2 * ETH_ALEN);
    store(code, AT_SOURCE, source, 8);
    bpf_emit(code, BPF_READ(BPF_W), 7, 8, source, 0);
    bpf_emit(code, BPF_READ(BPF_W), 9, 8, group, 0);
    if (last) {
        bpf_emit(code, BPF_READ(BPF_W), 1, 8, OUTPUT(index, interface), 0);
        bpf_emit(code, BPF_SET, 2, 0, 0, 0);
        call(code, BPF_FUNC_redirect);
        bpf_emit(code, BPF_RETURNS, 0, 0, 0, 0);
        return;
    }
    bpf_emit(code, BPF_MOVE, 1, 6, 0, 0);
    bpf_emit(code, BPF_READ(BPF_W), 2, 8, OUTPUT(index, interface), 0);
    bpf_emit(code, BPF_SET, 3, 0, 0, 0);
    call(code, BPF_FUNC_clone_redirect);
}

static void attach_tc(uint32_t interface, uint16_t port)
{
    static struct bpf_code code;
    int map = bpf_map(BPF_MAP_TYPE_HASH, 4, sizeof(struct flow), FLOWS_MAX);
    for (uint32_t i = 0; i < flow_count; i++)
        bpf_put(map, &flows[i].group, &flows[i]);
    bpf_emit(&code, BPF_MOVE, 6, 1, 0, 0);
    bpf_emit_parse(&code, offsetof(struct __sk_buff, data), offsetof(struct __sk_buff, data_end),
                   port);
    bpf_emit(&code, BPF_READ(BPF_W), 7, 2, AT_SOURCE, 0);
    bpf_emit(&code, BPF_READ(BPF_W), 9, 2, AT_GROUP, 0);
    bpf_emit(&code, BPF_WRITE(BPF_W), 10, 9, -4, 0);
    look_up(&code, map, 4);
    bpf_emit(&code, BPF_MOVE, 8, 0, 0, 0);
    follow_port(&code, port);
    for (uint32_t index = 0; index < flows[0].outputs; index++)
        tc_output(&code, index, index + 1 == flows[0].outputs);
    bpf_land(&code);
    give(&code, -1); /* TCX_NEXT */
    int program = bpf_load(BPF_PROG_TYPE_SCHED_CLS, 0, &code);
    bpf_attach(program, interface, BPF_ATTACH_TCX_INGRESS, 0);
}

int main(int argc, char **argv)
{
    uint32_t interface = argc >= 5 ? if_nametoindex(argv[2]) : 0;
    sigset_t signals;
    int number, xdp = argc >= 5 && strcmp(argv[1], "xdp") == 0;
    if (interface == 0 || (!xdp && strcmp(argv[1], "tc") != 0)) {
        fprintf(stderr, "usage: forward xdp|tc INTERFACE PORT RULES [check]\n");
        return 2;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    read_rules(argv[4]);
    for (uint32_t i = 1; i < flow_count; i++)
        if (flows[i].outputs != flows[0].outputs) {
            errno = EINVAL;
            fail("every flow has to have as many outputs");
        }
    (xdp ? attach_xdp : attach_tc)(interface, (uint16_t)atoi(argv[3]));
    if (argc > 5)
        return 0;
    join_groups(interface);
    printf("ready\n");
    fflush(stdout);
    sigwait(&signals, &number);
    printf("{}\n");
    return 0;
}
