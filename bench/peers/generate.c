/*
 * The generator: UDP datagrams to one or more groups, paced or as fast as the machine can.
 *
 *   generate METHOD INTERFACE SOURCE GROUP PORT FLOWS SIZE RATE BURST
 *
 * METHOD  segment: the kernel cuts BURST datagrams of one flow out of one send (UDP_SEGMENT). The
 *                  strongest; with tx-udp-segmentation off on INTERFACE, real frames leave it.
 *         frames:  whole frames through a packet ring: flows take turns with every single frame.
 * FLOWS   groups GROUP, GROUP + 1, ...; all from one source port.
 * RATE    datagrams per second over all flows; 0: no pause.
 * BURST   datagrams that leave together, 1 to 64.
 *
 * Sends until SIGTERM, and then tells in JSON what it did.
 * Payload, big-endian: sequence number of the flow (4 bytes), flow (2), "mb" (2),
 * CLOCK_REALTIME in ns just before sending (8), zeros.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

#define SECOND_NS 1000000000ull

enum {
    FLOWS_MAX = 256,
    BURST_MAX = 64,
    HEADERS = sizeof(struct ether_header) + sizeof(struct iphdr) + sizeof(struct udphdr),
    PAYLOAD_MIN = 16,
    SOURCE_PORT = 4999,
    TTL = 8,
    SPIN_NS = 50000,
    FRAMES = 512, /* of the packet ring; a power of two */
};

struct generator {
    const char *interface;
    struct in_addr source;
    uint32_t group; /* host order */
    uint16_t port;
    uint32_t flows;
    uint32_t size;
    double rate;
    uint32_t burst;
    uint32_t flow; /* whose turn it is */
    uint32_t sequences[FLOWS_MAX];
    uint64_t sent;
    uint64_t late;

    int fds[FLOWS_MAX]; /* segment */
    uint8_t *payloads;

    int fd; /* frames */
    uint8_t *ring;
    uint32_t frame_size;
    uint32_t next;
    struct ether_header ethernet;
};

static volatile sig_atomic_t stopped;

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

static void fail(const char *what)
{
    fprintf(stderr, "generate: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

static void stamp(uint8_t *payload, uint32_t sequence, uint32_t flow, uint64_t now)
{
    uint32_t number = htobe32(sequence);
    uint16_t which = htobe16((uint16_t)flow);
    uint64_t time = htobe64(now);
    memcpy(payload, &number, 4);
    memcpy(payload + 4, &which, 2);
    memcpy(payload + 6, "mb", 2);
    memcpy(payload + 8, &time, 8);
}

static void open_segment(struct generator *generator)
{
    for (uint32_t flow = 0; flow < generator->flows; flow++) {
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        int one = 1, zero = 0, ttl = TTL, segment = (int)generator->size, buffer = 1 << 20;
        struct ip_mreqn out = {.imr_ifindex = (int)if_nametoindex(generator->interface)};
        struct sockaddr_in from = {.sin_family = AF_INET,
                                   .sin_port = htons(SOURCE_PORT),
                                   .sin_addr = generator->source};
        struct sockaddr_in to = {.sin_family = AF_INET,
                                 .sin_port = htons(generator->port),
                                 .sin_addr.s_addr = htonl(generator->group + flow)};
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
            setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)) < 0 ||
            setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &out, sizeof(out)) < 0 ||
            setsockopt(fd, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof(ttl)) < 0 ||
            setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &zero, sizeof(zero)) < 0 ||
            bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0 ||
            connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
            fail("socket");
        if (generator->burst > 1 &&
            setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)) < 0)
            fail("UDP_SEGMENT");
        generator->fds[flow] = fd;
    }
    generator->payloads = calloc(BURST_MAX, generator->size);
    if (generator->payloads == NULL)
        fail("memory");
}

/* A burst of the flow whose turn it is. */
static void send_segment(struct generator *generator)
{
    uint64_t now = clock_ns(CLOCK_REALTIME);
    uint32_t flow = generator->flow;
    for (uint32_t i = 0; i < generator->burst; i++)
        stamp(generator->payloads + (size_t)i * generator->size, generator->sequences[flow] + i,
              flow, now);
    size_t length = (size_t)generator->burst * generator->size;
    if (send(generator->fds[flow], generator->payloads, length, 0) < 0) {
        if (errno == EINTR || errno == ENOBUFS || errno == EAGAIN)
            return;
        fail("send");
    }
    generator->sequences[flow] += generator->burst;
    generator->sent += generator->burst;
    generator->flow = flow + 1 == generator->flows ? 0 : flow + 1;
}

static uint16_t ip_checksum(const struct iphdr *ip)
{
    const uint16_t *words = (const uint16_t *)ip;
    uint32_t sum = 0;
    for (size_t i = 0; i < sizeof(*ip) / 2; i++)
        sum += words[i];
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)~sum;
}

/* What a kernel leaves in the UDP header when the interface is to finish the checksum. */
static uint16_t pseudo_sum(const struct iphdr *ip, uint16_t udp_length)
{
    uint32_t sum = (ip->saddr & 0xFFFF) + (ip->saddr >> 16) + (ip->daddr & 0xFFFF) +
                   (ip->daddr >> 16) + htons(IPPROTO_UDP) + udp_length;
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)sum;
}

static uint8_t *slot(const struct generator *generator, uint32_t index)
{
    return generator->ring + (size_t)(index % FRAMES) * generator->frame_size;
}

/* Where the kernel looks for what is to be sent (tpacket_snd). */
static uint8_t *data_of(uint8_t *frame)
{
    return frame + TPACKET2_HDRLEN - sizeof(struct sockaddr_ll);
}

static void open_frames(struct generator *generator)
{
    int one = 1, version = TPACKET_V2;
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_ifindex = (int)if_nametoindex(generator->interface)};
    struct ifreq query = {0};

    generator->fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (generator->fd < 0)
        fail("packet socket");
    memcpy(query.ifr_name, generator->interface, strnlen(generator->interface, IFNAMSIZ - 1));
    if (ioctl(generator->fd, SIOCGIFHWADDR, &query) < 0)
        fail("hardware address");
    memcpy(generator->ethernet.ether_shost, query.ifr_hwaddr.sa_data, ETH_ALEN);
    generator->ethernet.ether_type = htons(ETHERTYPE_IP);

    generator->frame_size = 2048;
    while (generator->frame_size < generator->size + HEADERS + 256)
        generator->frame_size *= 2;
    struct tpacket_req request = {.tp_frame_size = generator->frame_size,
                                  .tp_frame_nr = FRAMES,
                                  .tp_block_size = generator->frame_size * 16,
                                  .tp_block_nr = FRAMES / 16};
    if (setsockopt(generator->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) < 0 ||
        setsockopt(generator->fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) < 0 ||
        setsockopt(generator->fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)) < 0 ||
        setsockopt(generator->fd, SOL_PACKET, PACKET_TX_RING, &request, sizeof(request)) < 0 ||
        bind(generator->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        fail("packet ring");
    size_t length = (size_t)FRAMES * generator->frame_size;
    generator->ring = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, generator->fd, 0);
    if (generator->ring == MAP_FAILED)
        fail("mmap");
}

static void build(struct generator *generator, uint8_t *frame, uint32_t flow, uint64_t now)
{
    uint32_t length = HEADERS + generator->size;
    struct tpacket2_hdr *header = (struct tpacket2_hdr *)frame;
    uint8_t *at = data_of(frame);
    struct virtio_net_hdr offload = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                     .hdr_len = (uint16_t)length, /* copied, not referred to */
                                     .csum_start = HEADERS - sizeof(struct udphdr),
                                     .csum_offset = offsetof(struct udphdr, uh_sum)};
    struct ether_header ethernet = generator->ethernet;
    uint32_t group = generator->group + flow;
    uint8_t destination[ETH_ALEN] = {0x01,
                                     0x00,
                                     0x5E,
                                     (uint8_t)(group >> 16 & 0x7F),
                                     (uint8_t)(group >> 8),
                                     (uint8_t)group};
    struct iphdr ip = {.version = 4,
                       .ihl = 5,
                       .tot_len = htons((uint16_t)(length - sizeof(struct ether_header))),
                       .frag_off = htons(IP_DF),
                       .ttl = TTL,
                       .protocol = IPPROTO_UDP,
                       .saddr = generator->source.s_addr,
                       .daddr = htonl(group)};
    struct udphdr udp = {.uh_sport = htons(SOURCE_PORT),
                         .uh_dport = htons(generator->port),
                         .uh_ulen = htons((uint16_t)(sizeof(struct udphdr) + generator->size))};
    memcpy(ethernet.ether_dhost, destination, ETH_ALEN);
    ip.check = ip_checksum(&ip);
    udp.uh_sum = pseudo_sum(&ip, udp.uh_ulen);

    memcpy(at, &offload, sizeof(offload));
    at += sizeof(offload);
    memcpy(at, &ethernet, sizeof(ethernet));
    at += sizeof(ethernet);
    memcpy(at, &ip, sizeof(ip));
    at += sizeof(ip);
    memcpy(at, &udp, sizeof(udp));
    at += sizeof(udp);
    stamp(at, generator->sequences[flow], flow, now);
    header->tp_len = (uint32_t)sizeof(offload) + length;
    __atomic_store_n(&header->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
}

/* A burst of frames, of one flow after the other. */
static void send_frames(struct generator *generator)
{
    uint64_t now = clock_ns(CLOCK_REALTIME);
    uint32_t built = 0;
    for (; built < generator->burst; built++) {
        uint8_t *frame = slot(generator, generator->next);
        struct tpacket2_hdr *header = (struct tpacket2_hdr *)frame;
        uint32_t status = __atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE);
        if (status == TP_STATUS_WRONG_FORMAT) {
            errno = EINVAL;
            fail("frame");
        }
        if (status != TP_STATUS_AVAILABLE)
            break;
        build(generator, frame, generator->flow, now);
        generator->sequences[generator->flow]++;
        generator->flow = generator->flow + 1 == generator->flows ? 0 : generator->flow + 1;
        generator->next++;
    }
    if (send(generator->fd, NULL, 0, 0) < 0 && errno != EINTR && errno != EAGAIN &&
        errno != ENOBUFS)
        fail("send");
    generator->sent += built;
}

/* Sleeps, and spins through the end, until the time has come. */
static void wait_until(uint64_t until)
{
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    if (now + SPIN_NS < until) {
        uint64_t wake = until - SPIN_NS;
        struct timespec at = {.tv_sec = (time_t)(wake / SECOND_NS),
                              .tv_nsec = (long)(wake % SECOND_NS)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    }
    while (!stopped && clock_ns(CLOCK_MONOTONIC) < until)
        ;
}

static uint64_t run(struct generator *generator, void (*transmit)(struct generator *))
{
    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    double interval = generator->rate > 0 ? 1e9 / generator->rate * generator->burst : 0;
    double due = (double)start;
    while (!stopped) {
        if (interval > 0) {
            wait_until((uint64_t)due);
            uint64_t now = clock_ns(CLOCK_MONOTONIC);
            /* What is late by little is made up; what is late by much would be a burst. */
            if ((double)now > due + 4 * interval + 100000) {
                generator->late++;
                due = (double)now;
            }
            due += interval;
        }
        transmit(generator);
    }
    return clock_ns(CLOCK_MONOTONIC) - start;
}

int main(int argc, char **argv)
{
    static struct generator generator;
    struct in_addr group;
    if (argc != 10 || inet_aton(argv[3], &generator.source) == 0 ||
        inet_aton(argv[4], &group) == 0) {
        fprintf(stderr, "usage: generate segment|frames INTERFACE SOURCE GROUP PORT FLOWS SIZE"
                        " RATE BURST\n");
        return 2;
    }
    bool frames = strcmp(argv[1], "frames") == 0;
    generator.interface = argv[2];
    generator.group = ntohl(group.s_addr);
    generator.port = (uint16_t)atoi(argv[5]);
    generator.flows = (uint32_t)atoi(argv[6]);
    generator.size = (uint32_t)atoi(argv[7]);
    generator.rate = atof(argv[8]);
    generator.burst = (uint32_t)atoi(argv[9]);
    if (generator.flows < 1 || generator.flows > FLOWS_MAX || generator.size < PAYLOAD_MIN ||
        generator.burst < 1 || generator.burst > BURST_MAX ||
        (!frames && generator.burst * generator.size > 65507)) {
        fprintf(stderr, "generate: flows, size or burst out of range\n");
        return 2;
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul);

    if (frames)
        open_frames(&generator);
    else
        open_segment(&generator);
    uint64_t took = run(&generator, frames ? send_frames : send_segment);
    printf("{\"sent\": %llu, \"seconds\": %.6f, \"late\": %llu}\n",
           (unsigned long long)generator.sent, (double)took / 1e9,
           (unsigned long long)generator.late);
    return 0;
}
