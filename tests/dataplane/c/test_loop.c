/* loop.c with both engines, and a channel that fails to receive.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include <arpa/inet.h>
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

#include "backlog.h"
#include "check.h"
#include "worker.h"

enum { GROUP = 1, PAGE = 4096, MS = 1000 * 1000, PAUSE = 20 * MS };
enum { SLOT = 3, OUTPUT = 5 };

static int polls; /* which engine */

static uint64_t time_by(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000 * MS + (uint64_t)now.tv_nsec;
}

/* A worker with this channel; `readiness` says that there are frames. */
static struct worker *make(int channel, int readiness)
{
	struct worker_settings settings = { .channel = channel, .readiness = readiness, .sockets = 1 };
	struct worker *worker = worker_new(&settings);
	int segment = memfd_create("segment", 0);

	CHECK_EQUAL(ftruncate(segment, sizeof(struct segment)), 0);
	CHECK_EQUAL(pwrite(segment, &(uint32_t){ MCRD_SEGMENT_VERSION }, 4, offsetof(struct segment, version)), 4);
	CHECK_EQUAL(worker_map_segment(worker, segment), 0);
	CHECK(worker_open_engine(worker, polls) >= 0);
	CHECK(worker_make_places(worker) == 0);
	if (!polls) {
		CHECK_EQUAL(worker_restrict_uring(worker), 0);
		CHECK_EQUAL(worker_enable_uring(worker), 0);
	}
	close(segment);
	return worker;
}

/* What worker_run() returns; how long it took, and how much of that it did not wait. */
static int run(struct worker *worker, uint8_t *message, uint64_t *took, uint64_t *worked)
{
	uint64_t began = time_by(CLOCK_MONOTONIC), worked_before = time_by(CLOCK_THREAD_CPUTIME_ID);
	int result;

	errno = EBADF; /* what nobody may take for an answer */
	result = worker_run(worker);
	*took = time_by(CLOCK_MONOTONIC) - began;
	*worked = time_by(CLOCK_THREAD_CPUTIME_ID) - worked_before;
	memcpy(message, worker_message(worker), 64);
	worker_free(worker);
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
	CHECK_EQUAL(run(make(channel, channel), message, &took, &worked), 64);
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
	CHECK_EQUAL(run(make(channel, channel), message, &took, &worked), -ENOBUFS);
	CHECK(took >= 19 * PAUSE);
	CHECK(worked < took / 10); /* it is a hundredth */
	close(channel);
}

/* Another process says something, some time from now. */
static pid_t say_later(int to)
{
	const struct timespec time = { .tv_nsec = 10 * PAUSE };
	pid_t child = fork();

	if (child == 0) {
		nanosleep(&time, NULL);
		_exit(send(to, "late", 4, 0) != 4);
	}
	CHECK(child > 0);
	return child;
}

/* Whoever has nothing to do uses no CPU. `readiness`: -1, or where there are frames. */
static void wait_for_a_message(int readiness)
{
	uint8_t message[64];
	uint64_t took, worked;
	int ends[2];
	pid_t child;

	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	child = say_later(ends[1]);
	CHECK_EQUAL(run(make(ends[0], readiness < 0 ? ends[0] : readiness), message, &took, &worked), 4);
	CHECK(took < 5 * PAUSE || worked < took / 10); /* it is a hundredth; a busy machine may begin late */
	CHECK_EQUAL(waitpid(child, NULL, 0), child);
	close(ends[0]);
	close(ends[1]);
}

static void test_a_message_that_takes_its_time(void)
{
	check_about("a message that takes its time");
	wait_for_a_message(-1);
}

/* They wait until there are rules. */
static void test_frames_that_come_before_it_begins(void)
{
	int frames[2];

	check_about("frames before it begins");
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, frames), 0);
	CHECK_EQUAL(send(frames[1], "", 1, 0), 1);
	wait_for_a_message(frames[0]);
	close(frames[0]);
	close(frames[1]);
}

/* A worker that sends to `receiver`, by one rule; and the other end of its channel. */
static struct worker *make_with_rule(const struct rule_match *match, uint32_t by, int *receiver, int *ends)
{
	struct sockaddr_in where = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct rule_output output = { .socket = by, .counters = OUTPUT };
	int sender = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	struct ifreq up = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	socklen_t size = sizeof(where);
	struct worker *worker;

	CHECK_EQUAL(ioctl(sender, SIOCSIFFLAGS, &up), 0);
	*receiver = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK_EQUAL(bind(*receiver, (struct sockaddr *)&where, sizeof(where)), 0);
	CHECK_EQUAL(getsockname(*receiver, (struct sockaddr *)&where, &size), 0);
	CHECK_EQUAL(connect(sender, (struct sockaddr *)&where, size), 0);
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	worker = make(ends[0], ends[0]);
	CHECK_EQUAL(worker_set_socket(worker, 0, sender), 0);
	CHECK_EQUAL(worker_put_rule(worker, SLOT, match, NULL, &output, 1, NULL, NULL, 0), 0);
	return worker;
}

/* Runs it until so many datagrams have left, by itself: whoever receives them says so then. */
static void run_until(struct worker *worker, uint8_t datagrams, int receiver, const int *ends)
{
	const struct timeval patience = { .tv_sec = 2 }; /* a hundredfold, and less than members are waited for */
	uint8_t message[64] = { 0 }, came = 0;
	uint64_t took, worked;
	pid_t child;

	CHECK_EQUAL(setsockopt(receiver, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	child = fork();
	if (child == 0) {
		while (came < datagrams && recv(receiver, message, sizeof(message), 0) > 0)
			came++;
		_exit(send(ends[1], &came, 1, 0) != 1);
	}
	CHECK(child > 0);
	CHECK_EQUAL(run(worker, message, &took, &worked), 1);
	CHECK_EQUAL(message[0], datagrams);
	CHECK_EQUAL(waitpid(child, NULL, 0), child);
	close(receiver);
	close(ends[0]);
	close(ends[1]);
}

static const struct packet a_packet = {
	.family = 4,
	.source = (const uint8_t *)"\x0a\x01\x00\x05",
	.destination = (const uint8_t *)"\xef\x01\x01\x01",
	.destination_port = 5000,
};

/* Nothing else wakes the worker when the second one is due. */
static void test_a_backlog_that_is_due_later(void)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = 5000, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = 5000,
		.standby = 1,
		.backlog = 10000ULL * MS,
	};
	struct rule_output output = { .socket = 0, .counters = OUTPUT };
	uint64_t now = pace_real_now();
	struct worker *worker;
	struct rule *rule;
	int receiver, ends[2];

	check_about("a backlog that is due later");
	worker = make_with_rule(&match, 0, &receiver, ends);
	rule = worker->rules.by_slot[SLOT];
	CHECK_EQUAL(backlog_keep(worker, rule, &a_packet, a_packet.source, 1, now - 80ULL * MS), 0);
	CHECK_EQUAL(backlog_keep(worker, rule, &a_packet, a_packet.source, 1, now), 0);
	match.standby = 0;
	CHECK_EQUAL(worker_put_rule(worker, SLOT, &match, NULL, &output, 1, NULL, NULL, 0), 0);
	run_until(worker, 2, receiver, ends);
}

/* It ends by itself, and then all goes on. */
static void test_a_hold_in_which_nothing_comes(void)
{
	struct rule_match match = {
		.first = { .address = { 239, 1, 1, 1 }, .port = 5000, .family = 4 },
		.bits = 32,
		.protocol = 17,
		.last_port = 5000,
	};
	struct member_key key = { .slot = SLOT, .destination = match.first };
	struct worker *worker;
	int receiver, ends[2];

	check_about("a hold in which nothing comes");
	worker = make_with_rule(&match, MCRD_BY_MEMBER, &receiver, ends);
	worker->rules.now = pace_now();
	CHECK(members_wait(&worker->rules, worker->rules.by_slot[SLOT], NULL, &a_packet, a_packet.source, 1,
			   pace_real_now()) != NULL);
	CHECK_EQUAL(worker_put_member(worker, &key, 0, &(uint32_t){ 0 }, 1), 0);
	breaker_begin(&worker->test, SLOT, 0, pace_real_now());
	run_until(worker, 1, receiver, ends);
}

static void test_the_supervisor_has_gone(void)
{
	uint8_t message[64];
	uint64_t took, worked;
	int ends[2];

	check_about("the supervisor has gone");
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	close(ends[1]);
	CHECK_EQUAL(run(make(ends[0], ends[0]), message, &took, &worked), 0);
	close(ends[0]);
}

int main(void)
{
	CHECK_EQUAL(unshare(CLONE_NEWUSER | CLONE_NEWNET), 0);
	for (polls = 0; polls < 2; polls++) {
		test_a_receive_that_fails_once();
		test_a_message_that_takes_its_time();
		test_frames_that_come_before_it_begins();
		test_a_backlog_that_is_due_later();
		test_a_hold_in_which_nothing_comes();
		test_the_supervisor_has_gone();
	}
	polls = 0; /* whoever polls would not hear of that channel */
	test_receives_that_go_on_failing();
	return check_result();
}
