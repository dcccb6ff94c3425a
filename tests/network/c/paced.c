/* One stream by several ways, each datagram at its time.
 *
 *   paced SCHEDULE PAYLOADS SIZE INTERFACE GROUP PORT [INTERFACE GROUP PORT]...
 *
 * SCHEDULE is a file of struct item, PAYLOADS has SIZE bytes for each number. Says when it is ready, and waits for a
 * line. Whatever has to wait for a CPU is not made up for in a burst: all that follows is later as well. An interface
 * may go and come; what was to be sent by it meanwhile is counted. At the end it says how many milliseconds it took,
 * how many it was late at most, and how many datagrams were not sent by each way.
 *
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { WAYS = 2, BATCH = 64 };

#define MS 1000000ULL
#define TOGETHER (MS / 20)
#define LATE (20 * MS)

struct item {
	uint64_t at; /* ns */
	uint32_t way, number;
};

static struct way {
	const char *interface;
	struct sockaddr_in to;
	int fd;
	uint64_t unsent, tried;
	struct iovec vectors[BATCH];
	uint32_t count;
} ways[WAYS];

static void fail(const char *what)
{
	fprintf(stderr, "paced: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 * MS + (uint64_t)now.tv_nsec;
}

static void wait_until(uint64_t when)
{
	struct timespec until = { (time_t)(when / (1000 * MS)), (long)(when % (1000 * MS)) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static const void *map(const char *path, size_t *size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	struct stat stat;
	void *found;

	if (file < 0 || fstat(file, &stat) < 0)
		fail(path);
	*size = (size_t)stat.st_size;
	found = mmap(NULL, *size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
	if (found == MAP_FAILED)
		fail(path);
	close(file);
	return found;
}

/* Tried once a millisecond at most. */
static void open_way(struct way *way, uint64_t now)
{
	struct ip_mreqn by = { .imr_ifindex = (int)if_nametoindex(way->interface) };

	if (now - way->tried < MS || by.imr_ifindex == 0)
		return;
	way->tried = now;
	way->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (way->fd < 0)
		fail("socket");
	if (setsockopt(way->fd, IPPROTO_IP, IP_MULTICAST_IF, &by, sizeof(by)) == 0 &&
	    connect(way->fd, (struct sockaddr *)&way->to, sizeof(way->to)) == 0)
		return;
	close(way->fd);
	way->fd = -1;
}

static void send_batch(struct way *way)
{
	struct mmsghdr messages[BATCH] = { 0 };
	uint32_t sent = 0, i;
	int done = 0;

	for (i = 0; i < way->count; i++)
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &way->vectors[i], .msg_iovlen = 1 };
	if (way->fd < 0)
		open_way(way, now_ns());
	while (way->fd >= 0 && sent < way->count) {
		done = sendmmsg(way->fd, messages + sent, way->count - sent, 0);
		if (done > 0) {
			sent += (uint32_t)done;
		} else if (errno != EINTR && errno != ENOBUFS) {
			close(way->fd);
			way->fd = -1;
		}
	}
	way->unsent += way->count - sent;
	way->count = 0;
}

/* Returns by how much it was late at most. */
static uint64_t send_all(const struct item *items, size_t count, const uint8_t *payloads, size_t size)
{
	uint64_t began = now_ns(), now, late, most = 0;
	size_t at = 0;
	uint32_t way;

	while (at < count) {
		wait_until(began + items[at].at);
		now = now_ns();
		late = now - began - items[at].at;
		most = late > most ? late : most;
		if (late > LATE)
			began += late;
		while (at < count && began + items[at].at <= now + TOGETHER) {
			struct way *by = &ways[items[at].way];

			by->vectors[by->count++] =
				(struct iovec){ (void *)(payloads + size * items[at++].number), size };
			if (by->count == BATCH)
				send_batch(by);
		}
		for (way = 0; way < WAYS; way++)
			send_batch(&ways[way]);
	}
	return most;
}

int main(int argc, char **argv)
{
	size_t scheduled, bytes, size;
	const struct item *items;
	const uint8_t *payloads;
	uint64_t began, late;
	int i;

	if (argc < 7 || argc > 4 + 3 * WAYS || argc % 3 != 1)
		return 2;
	items = map(argv[1], &scheduled);
	payloads = map(argv[2], &bytes);
	size = (size_t)atoi(argv[3]);
	for (i = 0; i < WAYS; i++)
		ways[i].fd = -1;
	for (i = 4; i < argc; i += 3) {
		struct way *way = &ways[i / 3 - 1];

		way->interface = argv[i];
		way->to = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[i + 2])) };
		if (inet_pton(AF_INET, argv[i + 1], &way->to.sin_addr) != 1)
			fail(argv[i + 1]);
		open_way(way, now_ns());
	}
	puts("ready");
	fflush(stdout);
	if (getchar() == EOF)
		return 2;
	began = now_ns();
	late = send_all(items, scheduled / sizeof(*items), payloads, size);
	printf("%llu %llu", (unsigned long long)((now_ns() - began) / MS), (unsigned long long)(late / MS));
	for (i = 0; i < WAYS; i++)
		printf(" %llu", (unsigned long long)ways[i].unsent);
	puts("");
	return 0;
}
