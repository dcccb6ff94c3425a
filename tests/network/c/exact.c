/* Millions of datagrams of any length from 0 to 1472 bytes, of which every byte is known.
 *
 *   exact send    INTERFACE GROUP PORT FLOWS COUNT PROGRESS RECEIVERS
 *   exact receive INTERFACE GROUP PORT FLOWS COUNT PROGRESS RECEIVER
 *
 * FLOWS groups from GROUP on, whose datagrams come in bursts, in turn. What the nth of a flow holds is known on
 * both sides, so that nothing has to stand in it: an empty one is as good as any. PROGRESS is a file through
 * which each receiver says how many it has: the sender keeps so few under way that the receivers, which share
 * the CPUs with all the rest, never fall behind. So a loss is one of the relay's, and the rate is what all of
 * them together can do.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	FLOWS_MAX = 16,
	RECEIVERS_MAX = 8,
	LONGEST = 1472,
	BYTES = 1 << 16,
	BATCH = 64,
	UNDER_WAY = 4096,
	BUFFER = 64 << 20,
	SILENCE_MS = 5000,
	AFTERWARDS_MS = 300, /* for what came twice */
};

struct progress {
	volatile uint64_t received[RECEIVERS_MAX];
	volatile uint64_t failed;
};

static uint8_t bytes[BYTES + LONGEST];

static void fail(const char *what)
{
	fprintf(stderr, "exact: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t mix(uint64_t value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ULL;
	value = (value ^ value >> 27) * 0x94d049bb133111ebULL;
	return value ^ value >> 31;
}

/* What the nth datagram of a flow holds. */
static struct iovec datagram(uint32_t flow, uint64_t n)
{
	uint64_t chosen = mix(n * FLOWS_MAX + flow + 1);

	return (struct iovec){ bytes + (chosen & (BYTES - 1)), (chosen >> 32) % (LONGEST + 1) };
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static struct progress *map_progress(const char *path)
{
	int file = open(path, O_RDWR | O_CLOEXEC);
	void *memory;

	if (file < 0)
		fail(path);
	memory = mmap(NULL, sizeof(struct progress), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (memory == MAP_FAILED)
		fail(path);
	close(file);
	return memory;
}

static int open_socket(const char *interface, uint32_t group, uint16_t port, int receive)
{
	struct sockaddr_in name = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(group)
	};
	struct ip_mreqn at = { .imr_multiaddr = name.sin_addr, .imr_ifindex = (int)if_nametoindex(interface) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), size = BUFFER;

	if (fd < 0)
		fail("socket");
	if (receive) {
		if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0 ||
		    bind(fd, (struct sockaddr *)&name, sizeof(name)) < 0 ||
		    setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &at, sizeof(at)) < 0)
			fail("socket");
	} else if (setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &at, sizeof(at)) < 0 ||
		   connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0) {
		fail("socket");
	}
	return fd;
}

static uint64_t slowest(const struct progress *progress, uint32_t receivers)
{
	uint64_t least = UINT64_MAX;
	uint32_t i;

	for (i = 0; i < receivers; i++)
		if (progress->received[i] < least)
			least = progress->received[i];
	return least;
}

static void send_all(const int *sockets, uint32_t flows, uint64_t count, struct progress *progress, uint32_t receivers)
{
	uint64_t sent = 0, numbers[FLOWS_MAX] = { 0 }, heard = now_ms(), had = 0, burst;

	for (burst = 0; sent < count; burst++) {
		uint32_t flow = burst % flows, want = 1 + mix(burst) % BATCH, i;
		struct iovec vectors[BATCH];
		struct mmsghdr messages[BATCH] = { 0 };
		uint64_t arrived;
		int done;

		while ((arrived = slowest(progress, receivers)) + UNDER_WAY < sent + want) {
			if (progress->failed) {
				fprintf(stderr, "exact: a receiver failed\n");
				exit(1);
			}
			if (arrived != had) {
				had = arrived;
				heard = now_ms();
			} else if (now_ms() > heard + 2 * SILENCE_MS) {
				fprintf(stderr, "exact: %llu sent, %llu received, and no more\n",
					(unsigned long long)sent, (unsigned long long)arrived);
				exit(1);
			}
			usleep(20);
		}
		if (want > count - sent)
			want = (uint32_t)(count - sent);
		for (i = 0; i < want; i++) {
			vectors[i] = datagram(flow, numbers[flow] + i);
			messages[i].msg_hdr.msg_iov = &vectors[i];
			messages[i].msg_hdr.msg_iovlen = 1;
		}
		done = sendmmsg(sockets[flow], messages, want, 0);
		if (done < 0 && errno != EAGAIN && errno != ENOBUFS && errno != EINTR)
			fail("send");
		if (done > 0) {
			numbers[flow] += (uint64_t)done;
			sent += (uint64_t)done;
		}
	}
}

static void wrong(struct progress *progress, const char *how, uint32_t flow, uint64_t n)
{
	fprintf(stderr, "exact: flow %u, datagram %llu: %s\n", flow, (unsigned long long)n, how);
	progress->failed = 1;
	exit(1);
}

static void receive_all(const int *sockets, uint32_t flows, uint64_t count, struct progress *progress, uint32_t self)
{
	static uint8_t buffers[BATCH][LONGEST + 1];
	struct iovec vectors[BATCH];
	struct mmsghdr messages[BATCH] = { 0 };
	struct pollfd waiting[FLOWS_MAX];
	uint64_t numbers[FLOWS_MAX] = { 0 }, received = 0;
	uint32_t flow;
	int i;

	for (i = 0; i < BATCH; i++) {
		vectors[i] = (struct iovec){ buffers[i], sizeof(buffers[i]) };
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	for (flow = 0; flow < flows; flow++)
		waiting[flow] = (struct pollfd){ sockets[flow], POLLIN, 0 };
	for (;;) {
		int ready = poll(waiting, flows, received < count ? SILENCE_MS : AFTERWARDS_MS);

		if (ready < 0 && errno != EINTR)
			fail("poll");
		if (ready == 0 && received < count)
			wrong(progress, "nothing more came", 0, received);
		if (ready == 0)
			return;
		for (flow = 0; flow < flows; flow++) {
			int got = waiting[flow].revents ? recvmmsg(sockets[flow], messages, BATCH, 0, NULL) : 0;

			if (got < 0 && errno != EAGAIN && errno != EINTR)
				fail("receive");
			for (i = 0; i < got; i++) {
				struct iovec expected = datagram(flow, numbers[flow]);

				if (messages[i].msg_len != expected.iov_len ||
				    memcmp(buffers[i], expected.iov_base, expected.iov_len) != 0)
					wrong(progress, "lost, twice, out of order, or changed", flow, numbers[flow]);
				numbers[flow]++;
				received++;
			}
			progress->received[self] = received;
		}
		if (received > count)
			wrong(progress, "more than was sent", 0, received);
	}
}

int main(int argc, char **argv)
{
	int sockets[FLOWS_MAX], receive;
	uint32_t flows, flow, last;
	struct in_addr group;
	struct progress *progress;
	uint64_t count, began, random = 1, i;

	if (argc != 9 || inet_aton(argv[3], &group) == 0) {
		fprintf(stderr, "usage: exact send|receive INTERFACE GROUP PORT FLOWS COUNT PROGRESS NUMBER\n");
		return 2;
	}
	receive = strcmp(argv[1], "receive") == 0;
	flows = (uint32_t)atoi(argv[5]);
	count = strtoull(argv[6], NULL, 10);
	last = (uint32_t)atoi(argv[8]);
	if (flows < 1 || flows > FLOWS_MAX || last > RECEIVERS_MAX || (receive && last == RECEIVERS_MAX)) {
		fprintf(stderr, "exact: too many flows or receivers\n");
		return 2;
	}
	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(random = mix(random + i));
	progress = map_progress(argv[7]);
	for (flow = 0; flow < flows; flow++)
		sockets[flow] = open_socket(argv[2], ntohl(group.s_addr) + flow, (uint16_t)atoi(argv[4]), receive);
	printf("ready\n");
	fflush(stdout);
	began = now_ms();
	if (receive)
		receive_all(sockets, flows, count, progress, last);
	else
		send_all(sockets, flows, count, progress, last);
	printf("%llu ms\n", (unsigned long long)(now_ms() - began));
	return 0;
}
