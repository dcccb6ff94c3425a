/* loop.c with both engines, and a channel that fails to receive.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/if_xdp.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "worker.h"

enum { GROUP = 1, PAGE = 4096, MS = 1000 * 1000, PAUSE = 20 * MS };

static int polls; /* which engine */

static uint64_t time_by(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000 * MS + (uint64_t)now.tv_nsec;
}

/* What worker_run() returns of a worker with this channel; how long it took, and how much of that it did not wait. */
static int run(int channel, uint8_t *message, uint64_t *took, uint64_t *worked)
{
	struct worker_settings settings = { .channel = channel, .readiness = channel, .sockets = 1 };
	struct worker *worker = worker_new(&settings);
	int segment = memfd_create("segment", 0), result;
	uint64_t began, worked_before;

	CHECK_EQUAL(ftruncate(segment, sizeof(struct segment)), 0);
	CHECK_EQUAL(pwrite(segment, &(uint32_t){ MCRD_SEGMENT_VERSION }, 4, offsetof(struct segment, version)), 4);
	CHECK_EQUAL(worker_map_segment(worker, segment), 0);
	CHECK(worker_open_engine(worker, polls) >= 0);
	CHECK(worker_make_places(worker) == 0);
	if (!polls) {
		CHECK_EQUAL(worker_restrict_uring(worker), 0);
		CHECK_EQUAL(worker_enable_uring(worker), 0);
	}
	errno = EBADF; /* what nobody may take for an answer */
	began = time_by(CLOCK_MONOTONIC);
	worked_before = time_by(CLOCK_THREAD_CPUTIME_ID);
	result = worker_run(worker);
	*took = time_by(CLOCK_MONOTONIC) - began;
	*worked = time_by(CLOCK_THREAD_CPUTIME_ID) - worked_before;
	memcpy(message, worker_message(worker), 64);
	worker_free(worker);
	close(segment);
	return result;
}

/* A netlink socket that has lost messages fails once, and then has those that it did not lose. */
static void test_a_receive_that_fails_once(void)
{
	struct sockaddr_nl group = { .nl_family = AF_NETLINK, .nl_groups = 1 << (GROUP - 1) };
	int channel = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK), other = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK);
	int room = 4096, i;
	uint8_t message[64];
	uint64_t took, worked;

	check_about("a receive that fails once");
	CHECK_EQUAL(setsockopt(channel, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)), 0);
	CHECK_EQUAL(bind(channel, (struct sockaddr *)&group, sizeof(group)), 0);
	for (i = 1; i <= 100; i++) {
		uint8_t text[64] = { (uint8_t)i };

		sendto(other, text, sizeof(text), 0, (struct sockaddr *)&group, sizeof(group));
	}
	CHECK_EQUAL(run(channel, message, &took, &worked), 64);
	CHECK_EQUAL(message[0], 1);
	CHECK(took >= PAUSE);
	close(channel);
	close(other);
}

/* An XDP socket without a ring to receive into has ENOBUFS for every receive. */
static int without_room(void)
{
	int made = socket(AF_XDP, SOCK_RAW, 0), entries = 64;
	void *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct xdp_umem_reg umem = { .addr = (uint64_t)(uintptr_t)memory, .len = PAGE, .chunk_size = PAGE };
	struct sockaddr_xdp where = { .sxdp_family = AF_XDP, .sxdp_flags = XDP_COPY, .sxdp_ifindex = if_nametoindex("lo") };
	struct ifreq up = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int inet = socket(AF_INET, SOCK_DGRAM, 0);

	CHECK_EQUAL(ioctl(inet, SIOCSIFFLAGS, &up), 0);
	close(inet);
	CHECK_EQUAL(setsockopt(made, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)), 0);
	CHECK_EQUAL(setsockopt(made, SOL_XDP, XDP_UMEM_FILL_RING, &entries, sizeof(entries)), 0);
	CHECK_EQUAL(setsockopt(made, SOL_XDP, XDP_UMEM_COMPLETION_RING, &entries, sizeof(entries)), 0);
	CHECK_EQUAL(setsockopt(made, SOL_XDP, XDP_TX_RING, &entries, sizeof(entries)), 0);
	CHECK_EQUAL(bind(made, (struct sockaddr *)&where, sizeof(where)), 0);
	return made;
}

static void test_receives_that_go_on_failing(void)
{
	int channel = without_room();
	uint8_t message[64];
	uint64_t took, worked;

	check_about("receives that go on failing");
	CHECK_EQUAL(run(channel, message, &took, &worked), -ENOBUFS);
	CHECK(took >= 19 * PAUSE);
	CHECK(worked < took / 10); /* it is a hundredth */
	close(channel);
}

/* Whoever has nothing to do uses no CPU. */
static void test_a_message_that_takes_its_time(void)
{
	const struct timespec time = { .tv_nsec = 10 * PAUSE };
	uint8_t message[64];
	uint64_t took, worked;
	int ends[2];
	pid_t child;

	check_about("a message that takes its time");
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	child = fork();
	if (child == 0) {
		nanosleep(&time, NULL);
		_exit(send(ends[1], "late", 4, 0) != 4);
	}
	CHECK(child > 0);
	CHECK_EQUAL(run(ends[0], message, &took, &worked), 4);
	CHECK(took < 5 * PAUSE || worked < took / 10); /* it is a hundredth; a busy machine may begin late */
	CHECK_EQUAL(waitpid(child, NULL, 0), child);
	close(ends[0]);
	close(ends[1]);
}

static void test_the_supervisor_has_gone(void)
{
	uint8_t message[64];
	uint64_t took, worked;
	int ends[2];

	check_about("the supervisor has gone");
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	close(ends[1]);
	CHECK_EQUAL(run(ends[0], message, &took, &worked), 0);
	close(ends[0]);
}

int main(void)
{
	CHECK_EQUAL(unshare(CLONE_NEWUSER | CLONE_NEWNET), 0);
	for (polls = 0; polls < 2; polls++) {
		test_a_receive_that_fails_once();
		test_a_message_that_takes_its_time();
		test_the_supervisor_has_gone();
	}
	polls = 0; /* whoever polls would not hear of that channel */
	test_receives_that_go_on_failing();
	return check_result();
}
