/*
 * What the relays of the benchmark share. See relay.h.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#define _GNU_SOURCE
#include "relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

enum {
    /* As much as the ring of mcrd. */
    RECEIVE_BUFFER = 32 * 1024 * 1024,
    SEND_BUFFER = 4 * 1024 * 1024,
    TTL = 8,
};

void relay_fail(const char *what, int error)
{
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    exit(1);
}

/* Lets UDP over IPv4 to the port and to the flows' groups (a /24) through, and only what came in. */
static void set_filter(const struct relay *relay)
{
    uint32_t prefix = ntohl(relay->flow[0].group) & 0xFFFFFF00u;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 11, 0),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_IP, 0, 9),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 7),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 30),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xFFFFFF00u),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, prefix, 0, 4),
        BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 14),
        BPF_STMT(BPF_LD | BPF_H | BPF_IND, 16),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, relay->port, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xFFFF),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};
    if (setsockopt(relay->input, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
        relay_fail("filter", errno);
}

/* A veth would deliver the groups without it; a switch would not. */
static void join_groups(const struct relay *relay, const char *interface)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        relay_fail("membership socket", errno);
    for (uint32_t i = 0; i < relay->flows; i++) {
        struct ip_mreqn join = {.imr_multiaddr.s_addr = relay->flow[i].group,
                                .imr_ifindex = (int)if_nametoindex(interface)};
        if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof(join)) < 0)
            relay_fail("membership", errno);
    }
}

static int open_input(const char *interface)
{
    int size = RECEIVE_BUFFER;
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL),
                                  .sll_ifindex = (int)if_nametoindex(interface)};
    int fd = socket(AF_PACKET, SOCK_RAW, 0); /* protocol 0: nothing arrives before bind */
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
        relay_fail("packet socket", errno);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        relay_fail(interface, errno);
    return fd;
}

static int open_output(const char *interface, struct in_addr source, struct in_addr group,
                       uint16_t port)
{
    int zero = 0, ttl = TTL, size = SEND_BUFFER;
    struct ip_mreqn out = {.imr_ifindex = (int)if_nametoindex(interface)};
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = source};
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = group};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &out, sizeof(out)) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof(ttl)) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &zero, sizeof(zero)) < 0 ||
        bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0 ||
        connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        relay_fail("output", errno);
    return fd;
}

static void read_rules(struct relay *relay, const char *path)
{
    char words[4][32];
    struct in_addr group, source, to;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        relay_fail(path, errno);
    while (fscanf(file, "%31s %31s %31s %31s", words[0], words[1], words[2], words[3]) == 4) {
        if (!inet_aton(words[0], &group) || !inet_aton(words[2], &source) ||
            !inet_aton(words[3], &to))
            relay_fail("an address of the rules", EINVAL);
        struct relay_flow *flow = relay->flows ? &relay->flow[relay->flows - 1] : NULL;
        if (flow == NULL || flow->group != group.s_addr) {
            if (relay->flows == RELAY_FLOWS_MAX)
                relay_fail("flows", ENOSPC);
            flow = &relay->flow[relay->flows++];
            flow->group = group.s_addr;
            relay->by_octet[ntohl(group.s_addr) & 0xFF] = flow;
        }
        if (flow->outputs == RELAY_OUTPUTS_MAX)
            relay_fail("outputs", ENOSPC);
        flow->fds[flow->outputs++] =
            open_output(words[1], source, to, (uint16_t)(relay->port + 1000));
    }
    fclose(file);
    if (relay->flows == 0)
        relay_fail(path, EINVAL);
}

void relay_open(struct relay *relay, const char *interface, uint16_t port, const char *rules)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    relay->signals = signalfd(-1, &mask, SFD_CLOEXEC);
    if (relay->signals < 0)
        relay_fail("signalfd", errno);
    relay->port = port;
    read_rules(relay, rules);
    join_groups(relay, interface);
    relay->input = open_input(interface);
    set_filter(relay);
}

const struct relay_flow *relay_find(const struct relay *relay, const uint8_t *frame, size_t length,
                                    const uint8_t **payload, size_t *size)
{
    const size_t ethernet = sizeof(struct ether_header);
    struct iphdr ip;
    struct udphdr udp;
    if (length < ethernet + sizeof(ip) + sizeof(udp))
        return NULL;
    memcpy(&ip, frame + ethernet, sizeof(ip));
    size_t header = (size_t)ip.ihl * 4;
    if (ip.version != 4 || header < sizeof(ip) || ip.protocol != IPPROTO_UDP ||
        length < ethernet + header + sizeof(udp))
        return NULL;
    memcpy(&udp, frame + ethernet + header, sizeof(udp));
    size_t told = ntohs(udp.uh_ulen);
    if (ntohs(udp.uh_dport) != relay->port || told < sizeof(udp) ||
        told > length - ethernet - header)
        return NULL;
    const struct relay_flow *flow = relay->by_octet[ntohl(ip.daddr) & 0xFF];
    if (flow == NULL || flow->group != ip.daddr)
        return NULL;
    *payload = frame + ethernet + header + sizeof(udp);
    *size = told - sizeof(udp);
    return flow;
}

void relay_report(const struct relay *relay)
{
    struct tpacket_stats stats = {0};
    socklen_t length = sizeof(stats);
    if (getsockopt(relay->input, SOL_PACKET, PACKET_STATISTICS, &stats, &length) < 0)
        relay_fail("PACKET_STATISTICS", errno);
    printf("{\"dropped\": %u, \"errors\": %llu}\n", stats.tp_drops,
           (unsigned long long)relay->errors);
}
