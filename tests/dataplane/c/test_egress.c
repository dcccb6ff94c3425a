/* egress.c against a kernel that is made of an array: it cuts writes as UDP_SEGMENT says, keeps chains, and fails
 * as told. What it takes for granted of the real one is tested on real packets (tests/dataplane/test_egress.py).
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "egress.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"

enum { SOCKETS = 5, ENTRIES = 4096, PILE = 1 << 16, HEADERS = 28, DESCRIPTOR = 1000000 };

struct datagram {
	const uint8_t *data;
	uint32_t length;
};

struct pile {
	struct datagram datagrams[PILE];
	uint32_t count;
};

static struct kernel {
	uint32_t mtu;       /* of all outputs */
	int no_option;      /* knows no UDP_SEGMENT */
	int no_offload;     /* refuses to cut: EIO */
	int no_nowait;      /* before Linux 6.5 */
	uint32_t report;    /* per cent of writes that meet a report */
	uint32_t in_a_row;  /* the most reports one after the other */
	const int *failing; /* what submissions that wait fail with, one after the other, up to a 0 */
	uint32_t busy;      /* so many submissions that do not wait fail */
	uint32_t error;     /* per cent of writes that fail by .number */
	int number;
	uint64_t random;

	uint32_t segment[SOCKETS];
	uint32_t row[SOCKETS];
	uint64_t reports;
	uint32_t submits, options, writes;
	int under_way[SOCKETS];
	struct pile wire[SOCKETS];
} kernel;

static int polls; /* which engine */
static uint64_t held[ENTRIES]; /* user_data of writes that wait for room */
static uint32_t held_count;

static int chance(uint32_t per_cent)
{
	return check_random(&kernel.random) % 100 < per_cent;
}

int setsockopt(int descriptor, int level, int name, const void *value, socklen_t length)
{
	uint32_t place = (uint32_t)(descriptor - DESCRIPTOR);
	int segment;

	CHECK_EQUAL(level, 17);
	CHECK_EQUAL(name, 103);
	CHECK_EQUAL(length, sizeof(segment));
	CHECK(!kernel.under_way[place]);
	kernel.options++;
	memcpy(&segment, value, sizeof(segment));
	if (kernel.no_option) {
		errno = ENOPROTOOPT;
		return -1;
	}
	kernel.segment[place] = (uint32_t)segment;
	return 0;
}

int close(int descriptor)
{
	return descriptor < DESCRIPTOR ? -1 : 0;
}

static void deliver(uint32_t place, const struct iovec *vectors, uint32_t count, uint32_t segment)
{
	struct pile *wire = &kernel.wire[place];
	uint32_t i;

	for (i = 0; i < count; i++) {
		const uint8_t *at = vectors[i].iov_base;
		size_t left = vectors[i].iov_len;

		do {
			uint32_t length = segment && left > segment ? segment : (uint32_t)left;

			wire->datagrams[wire->count++] = (struct datagram){ at, length };
			at += length;
			left -= length;
		} while (left > 0);
		/* Only the end of the last one may be shorter than a segment. */
		if (segment && i + 1 < count)
			CHECK_EQUAL(vectors[i].iov_len % segment, 0);
	}
}

static int write_to(uint32_t place, const struct iovec *vectors, uint32_t count, uint32_t flags)
{
	uint32_t segment = kernel.segment[place], total = 0, i;

	kernel.writes++;
	if (kernel.no_nowait && flags & RWF_NOWAIT)
		return -EOPNOTSUPP;
	if (chance(kernel.report) && kernel.row[place] < kernel.in_a_row) {
		kernel.row[place]++;
		kernel.reports++;
		return -ECONNREFUSED;
	}
	kernel.row[place] = 0;
	if (chance(kernel.error))
		return -kernel.number;
	for (i = 0; i < count; i++)
		total += (uint32_t)vectors[i].iov_len;
	if (segment && segment + HEADERS > kernel.mtu)
		return -EMSGSIZE; /* as older kernels do, for shorter writes too */
	if (segment && kernel.no_offload)
		return -EIO;
	CHECK(total <= EGRESS_BYTES);
	if (segment && total > segment) {
		CHECK((total + segment - 1) / segment <= EGRESS_SEGMENTS);
	} else {
		CHECK_EQUAL(count, 1);
		segment = 0;
	}
	deliver(place, vectors, count, segment);
	return (int)total;
}

ssize_t writev(int descriptor, const struct iovec *vectors, int count)
{
	int result = -EBADF;

	CHECK(polls && vectors->iov_len > 0);
	if (descriptor >= DESCRIPTOR)
		result = write_to((uint32_t)(descriptor - DESCRIPTOR), vectors, (uint32_t)count, RWF_NOWAIT);
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

/* An empty datagram: the real writev() makes none. */
ssize_t write(int descriptor, const void *data, size_t length)
{
	struct iovec vector = { (void *)(uintptr_t)data, length };
	int result = -EBADF;

	CHECK(polls && length == 0);
	if (descriptor >= DESCRIPTOR)
		result = write_to((uint32_t)(descriptor - DESCRIPTOR), &vector, 1, RWF_NOWAIT);
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

static void complete(struct io_uring *ring, uint64_t user_data, int result)
{
	unsigned int tail = *ring->cq.ktail;

	ring->cq.cqes[tail & *ring->cq.kring_mask] = (struct io_uring_cqe){ .user_data = user_data, .res = result };
	*ring->cq.ktail = tail + 1;
}

int io_uring_submit(struct io_uring *ring)
{
	int severed = 0, linked = 0, submitted = 0;

	kernel.submits++;
	if (kernel.busy > 0) {
		kernel.busy--;
		return -EBUSY;
	}
	for (; ring->sq.sqe_head != ring->sq.sqe_tail; ring->sq.sqe_head++, submitted++) {
		const struct io_uring_sqe *sqe = &ring->sq.sqes[ring->sq.sqe_head & *ring->sq.kring_mask];
		uint32_t place = (uint32_t)sqe->fd - ENGINE_PLACES;
		int result = -ECANCELED;

		if (sqe->opcode == IORING_OP_ASYNC_CANCEL) {
			uint32_t i;

			CHECK_EQUAL(sqe->flags, IOSQE_FIXED_FILE); /* the kernel allows no others: uring_restrict() */
			for (i = 0; i < held_count && held[i] != sqe->addr; i++)
				;
			CHECK(i < held_count);
			complete(ring, held[i], -ECANCELED);
			held[i] = held[--held_count];
			complete(ring, sqe->user_data, 0);
			continue;
		}
		CHECK_EQUAL(sqe->opcode, IORING_OP_WRITEV);
		CHECK_EQUAL(sqe->flags & ~IOSQE_IO_LINK, IOSQE_FIXED_FILE);
		if (!(linked && severed))
			result = write_to(place, (const struct iovec *)(uintptr_t)sqe->addr, sqe->len,
					  (uint32_t)sqe->rw_flags);
		linked = (sqe->flags & IOSQE_IO_LINK) != 0;
		severed = result < 0;
		if (kernel.no_nowait && result == -EAGAIN)
			held[held_count++] = sqe->user_data;
		else
			complete(ring, sqe->user_data, result);
	}
	*ring->sq.khead = ring->sq.sqe_head;
	return submitted;
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned int wait)
{
	int submitted;

	if (kernel.failing && *kernel.failing)
		return -*kernel.failing++;
	submitted = io_uring_submit(ring);
	CHECK(wait <= *ring->cq.ktail - *ring->cq.khead); /* else it waits for ever */
	return submitted;
}

struct fixture {
	struct engine engine;
	unsigned int sq_head, sq_tail, sq_mask, cq_head, cq_tail, cq_mask, sq_entries;
	struct io_uring_sqe sqes[ENTRIES];
	struct io_uring_cqe cqes[2 * ENTRIES];
	struct egress egress;
	struct segment *segment;
	struct output outputs[SOCKETS];
	struct pile fed[SOCKETS];
	uint8_t data[1 << 24];
	uint32_t used;
};

static void other(void *context, const struct completion *done)
{
	(void)context;
	CHECK_EQUAL(done->what, EGRESS_CANCEL);
}

static struct fixture *begin(const char *about)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	uint32_t i;

	if (!fixture)
		abort();
	fixture->segment = calloc(1, sizeof(*fixture->segment));
	if (!fixture->segment)
		abort();
	check_about(about);
	memset(&kernel, 0, sizeof(kernel));
	kernel.mtu = 1500;
	kernel.random = 88172645463325252ULL;
	kernel.in_a_row = 3;
	kernel.number = EAGAIN;
	fixture->engine.calls = polls ? &polling_calls : &uring_calls;
	fixture->sq_mask = ENTRIES - 1;
	fixture->sq_entries = ENTRIES;
	fixture->cq_mask = 2 * ENTRIES - 1;
	fixture->engine.uring.sq.khead = &fixture->sq_head;
	fixture->engine.uring.sq.ktail = &fixture->sq_tail;
	fixture->engine.uring.sq.kring_mask = &fixture->sq_mask;
	fixture->engine.uring.sq.kring_entries = &fixture->sq_entries;
	fixture->engine.uring.sq.ring_mask = fixture->sq_mask;
	fixture->engine.uring.sq.ring_entries = ENTRIES;
	fixture->engine.uring.sq.sqes = fixture->sqes;
	fixture->engine.uring.cq.khead = &fixture->cq_head;
	fixture->engine.uring.cq.ktail = &fixture->cq_tail;
	fixture->engine.uring.cq.kring_mask = &fixture->cq_mask;
	fixture->engine.uring.cq.ring_mask = fixture->cq_mask;
	fixture->engine.uring.cq.cqes = fixture->cqes;
	CHECK_EQUAL(egress_init(&fixture->egress, &fixture->engine, SOCKETS, fixture->segment), 0);
	for (i = 0; i < SOCKETS; i++) {
		egress_put(&fixture->egress, i, (int)(DESCRIPTOR + i));
		fixture->outputs[i] = (struct output){ .socket = i, .counters = &fixture->segment->outputs[i] };
	}
	/* A worker before this one may have set UDP_SEGMENT. */
	CHECK_EQUAL(kernel.options, SOCKETS);
	kernel.options = 0;
	return fixture;
}

static void end(struct fixture *fixture)
{
	egress_free(&fixture->egress);
	free(fixture->segment);
	free(fixture);
}

static void feed(struct fixture *fixture, uint32_t place, uint32_t length, int beside)
{
	struct pile *fed = &fixture->fed[place];
	const uint8_t *data;

	fixture->used += beside ? 0 : 2; /* headers stand between two datagrams, but not in a super-frame */
	data = fixture->data + fixture->used;
	fixture->used += length;
	fed->datagrams[fed->count++] = (struct datagram){ data, length };
	CHECK_EQUAL(egress_add(&fixture->egress, &fixture->outputs[place], data, length, other, NULL), 0);
}

static void flush(struct fixture *fixture)
{
	CHECK_EQUAL(egress_flush(&fixture->egress, other, NULL), 0);
	CHECK_EQUAL(held_count, 0);
}

static uint64_t errors(const struct output_counters *counters)
{
	uint64_t total = 0;
	int i;

	for (i = 0; i < MCRD_ERROR_PLACES; i++)
		total += counters->errors[i].count;
	return total;
}

/* What is on the wire is what was fed, in order, without what was counted as an error. */
static void check_wire(const struct fixture *fixture)
{
	uint32_t place, i;

	for (place = 0; place < SOCKETS; place++) {
		const struct pile *fed = &fixture->fed[place], *wire = &kernel.wire[place];
		const struct output_counters *counters = &fixture->segment->outputs[place];
		uint64_t bytes = 0, at = 0;

		for (i = 0; i < wire->count; i++) {
			while (at < fed->count && fed->datagrams[at].data != wire->datagrams[i].data)
				at++;
			CHECK(at < fed->count);
			if (at == fed->count)
				break;
			CHECK_EQUAL(wire->datagrams[i].length, fed->datagrams[at].length);
			bytes += wire->datagrams[i].length;
			at++;
		}
		CHECK_EQUAL(counters->traffic.packets, wire->count);
		CHECK_EQUAL(counters->traffic.bytes, bytes);
		CHECK_EQUAL(errors(counters), fed->count - wire->count);
	}
	for (i = 0; i < EGRESS_RUNS; i++)
		CHECK_EQUAL(fixture->segment->in_hand[i].datagrams + fixture->segment->in_hand[i].under_way, 0);
}

static void test_one_write(void)
{
	struct fixture *fixture = begin("one write for a run");
	uint32_t i;

	for (i = 0; i < 64; i++)
		feed(fixture, 0, 1000, 0);
	feed(fixture, 1, 500, 0);
	feed(fixture, 1, 500, 0);
	feed(fixture, 1, 7, 0); /* the last may be shorter */
	feed(fixture, 1, 7, 0);
	flush(fixture);
	check_wire(fixture);
	CHECK_EQUAL(kernel.writes, 3);
	CHECK_EQUAL(kernel.submits, polls ? 0 : 1);
	CHECK_EQUAL(kernel.options, 2);
	/* What is shorter than the segment needs no other one. */
	feed(fixture, 0, 3, 0);
	feed(fixture, 0, 0, 0);
	feed(fixture, 0, 999, 0);
	flush(fixture);
	CHECK_EQUAL(kernel.options, 2);
	feed(fixture, 0, 1472, 0);
	flush(fixture);
	CHECK_EQUAL(kernel.options, 3);
	check_wire(fixture);
	end(fixture);
}

static void test_super_frame(void)
{
	struct fixture *fixture = begin("super-frame");
	uint32_t i;

	for (i = 0; i < 40; i++)
		feed(fixture, 0, 1400, i > 0);
	feed(fixture, 0, 10, 1);
	flush(fixture);
	check_wire(fixture);
	CHECK_EQUAL(kernel.writes, 1);
	CHECK_EQUAL(fixture->egress.runs[0].vectors, 1);
	/* More than one write holds. */
	for (i = 0; i < 200; i++)
		feed(fixture, 1, 500, i > 0);
	flush(fixture);
	check_wire(fixture);
	CHECK_EQUAL(kernel.writes, 5);
	end(fixture);
}

static void test_limits(void)
{
	struct fixture *fixture = begin("limits");
	uint32_t i;

	kernel.mtu = 65535;
	for (i = 0; i < 200; i++)
		feed(fixture, i % 2, 20000, 0);
	for (i = 0; i < 300; i++)
		feed(fixture, 2, 0, 0);
	feed(fixture, 3, EGRESS_BYTES, 0);
	feed(fixture, 3, EGRESS_BYTES, 0);
	flush(fixture);
	check_wire(fixture);
	for (i = 0; i < SOCKETS; i++)
		CHECK_EQUAL(errors(&fixture->segment->outputs[i]), 0);
	end(fixture);
}

/* Whoever finds the segment after a crash knows what had not left, and whose it was. */
static void test_in_hand(void)
{
	struct fixture *fixture = begin("in hand");
	const struct in_hand *in_hand = fixture->segment->in_hand;
	uint64_t datagrams[SOCKETS] = { 0 };
	uint32_t i;

	for (i = 0; i < 300; i++)
		feed(fixture, i % 3, 100, 0);
	for (i = 0; i < EGRESS_RUNS; i++) {
		datagrams[in_hand[i].output] += in_hand[i].datagrams;
		CHECK_EQUAL(in_hand[i].under_way, 0);
	}
	for (i = 0; i < 3; i++)
		CHECK_EQUAL(datagrams[i], 100);
	CHECK_EQUAL(in_hand[0].length, 100);
	flush(fixture);
	check_wire(fixture);
	end(fixture);
}

static void test_empty_place(void)
{
	struct fixture *fixture = begin("place without a socket");

	egress_put(&fixture->egress, 0, -1);
	kernel.error = 100;
	kernel.number = EBADF;
	feed(fixture, 0, 10, 0);
	feed(fixture, 0, 10, 0);
	flush(fixture);
	CHECK_EQUAL(kernel.options, 0);
	CHECK_EQUAL(fixture->segment->outputs[0].errors[0].number, EBADF);
	CHECK_EQUAL(fixture->segment->outputs[0].errors[0].count, 2);
	end(fixture);
}

static void test_larger_than_the_mtu(void)
{
	struct fixture *fixture = begin("larger than the MTU");
	uint32_t i, before;

	for (i = 0; i < 10; i++)
		feed(fixture, 0, 1400, 0);
	for (i = 0; i < 10; i++)
		feed(fixture, 0, 4000, 0);
	for (i = 0; i < 10; i++)
		feed(fixture, 0, 1400, 0);
	flush(fixture);
	check_wire(fixture);
	CHECK_EQUAL(errors(&fixture->segment->outputs[0]), 0);
	CHECK_EQUAL(fixture->segment->outputs[0].refused, 0);
	/* It has learned. */
	before = kernel.writes;
	for (i = 0; i < 10; i++)
		feed(fixture, 0, 4000, 0);
	flush(fixture);
	CHECK_EQUAL(kernel.writes - before, 10);
	/* And shorter ones still go in one write. */
	before = kernel.writes;
	for (i = 0; i < 10; i++)
		feed(fixture, 0, 1472, 0);
	flush(fixture);
	CHECK_EQUAL(kernel.writes - before, 1);
	check_wire(fixture);
	/* The MTU shrinks below a segment that is set: also what is shorter must pass. */
	kernel.mtu = 1000;
	feed(fixture, 0, 100, 0);
	flush(fixture);
	check_wire(fixture);
	CHECK_EQUAL(errors(&fixture->segment->outputs[0]), 0);
	end(fixture);
}

static void test_no_offload(void)
{
	struct fixture *fixture = begin("no offload");
	uint32_t i, round, before = 0;

	kernel.no_offload = 1;
	for (round = 0; round < 2; round++) {
		before = kernel.writes;
		for (i = 0; i < 100; i++)
			feed(fixture, i % 2, 100 + i / 90, 0);
		flush(fixture);
	}
	CHECK_EQUAL(kernel.writes - before, 100);
	check_wire(fixture);
	CHECK_EQUAL(errors(&fixture->segment->outputs[0]) + errors(&fixture->segment->outputs[1]), 0);
	end(fixture);
}

static void test_no_option(void)
{
	struct fixture *fixture = begin("kernel without UDP_SEGMENT");
	uint32_t i, round;

	kernel.no_option = 1;
	for (round = 0; round < 2; round++) {
		for (i = 0; i < 100; i++)
			feed(fixture, i % 2, 100, 0);
		flush(fixture);
		CHECK_EQUAL(kernel.options, 2); /* asked once */
	}
	check_wire(fixture);
	CHECK_EQUAL(errors(&fixture->segment->outputs[0]) + errors(&fixture->segment->outputs[1]), 0);
	end(fixture);
}

static void test_full_queue(void)
{
	struct fixture *fixture = begin("full queue");
	uint32_t i, before;

	kernel.error = 100;
	kernel.number = ENOBUFS;
	for (i = 0; i < 10; i++)
		feed(fixture, 0, 100, 0);
	flush(fixture);
	CHECK_EQUAL(fixture->segment->outputs[0].errors[0].count, 10);
	kernel.error = 0;
	before = kernel.writes;
	for (i = 0; i < 10; i++)
		feed(fixture, 0, 100, 0);
	flush(fixture);
	CHECK_EQUAL(kernel.writes - before, 10); /* one by one for a while: only so its answers are exact */
	check_wire(fixture);
	end(fixture);
}

/* What interrupts a wait, or has no memory or room for now, loses and repeats nothing (io_uring_enter(2)). */
static void test_waits_that_fail(void)
{
	static const int pass[] = { EINTR, EAGAIN, EBUSY, EINTR, 0 }, last[] = { EBADF, 0 };
	struct fixture *fixture = begin("waits that fail");
	uint32_t i;

	kernel.failing = pass;
	for (i = 0; i < 10; i++)
		feed(fixture, i % 2, 100 + i, 0);
	flush(fixture);
	check_wire(fixture);
	CHECK_EQUAL(*kernel.failing, polls ? EINTR : 0);
	CHECK_EQUAL(errors(&fixture->segment->outputs[0]) + errors(&fixture->segment->outputs[1]), 0);
	if (!polls) {
		kernel.failing = last;
		feed(fixture, 0, 100, 0);
		CHECK_EQUAL(egress_flush(&fixture->egress, other, NULL), -EBADF);
		CHECK_EQUAL(fixture->segment->submitted, 0); /* nothing has left */
	}
	end(fixture);
}

/* No message is received before its time: where there is no room for the pause, there is none for what follows it. */
static void test_no_room_for_a_pause(void)
{
	struct fixture *fixture = begin("no room for a pause");
	struct msghdr header = { 0 };

	if (!polls) {
		while (io_uring_get_sqe(&fixture->engine.uring))
			;
		kernel.busy = 1;
		CHECK_EQUAL(uring_calls.await_message(&fixture->engine, &header, 1, 1000), -EBUSY);
		CHECK_EQUAL(kernel.submits, 1);
	}
	end(fixture);
}

enum lengths { FEW, ANY, SUPER };

static void stream(struct fixture *fixture, enum lengths lengths)
{
	static const uint32_t few[] = { 1400, 1400, 1400, 1316, 200, 0, 1 };
	uint32_t i, part;

	for (i = 0; i < 6000; i++) {
		uint32_t number = check_random(&kernel.random), place = number % SOCKETS;

		if (lengths == SUPER) {
			for (part = 0; part < 20; part++)
				feed(fixture, place, 100, part > 0);
			i += part;
		} else {
			feed(fixture, place, lengths == FEW ? few[number / SOCKETS % 7] : number / SOCKETS % 1473, 0);
		}
		if (check_random(&kernel.random) % 700 == 0)
			flush(fixture);
	}
	flush(fixture);
	check_wire(fixture);
}

static void test_streams(void)
{
	static const struct {
		const char *name;
		struct kernel kernel;
	} cases[] = {
		{ "stream", { .mtu = 1500 } },
		{ "stream, small MTU", { .mtu = 1000 } },
		{ "stream, no offload", { .mtu = 1500, .no_offload = 1 } },
		{ "stream, no option", { .mtu = 1500, .no_option = 1 } },
		{ "stream, no RWF_NOWAIT", { .mtu = 1500, .no_nowait = 1 } },
		{ "stream, reports", { .mtu = 1500, .report = 20, .in_a_row = 3 } },
		{ "stream, reports and a small MTU", { .mtu = 1000, .report = 20, .in_a_row = 1 } },
		{ "stream, reports and no offload", { .mtu = 1500, .no_offload = 1, .report = 20, .in_a_row = 3 } },
		{ "stream, full buffers", { .mtu = 1500, .error = 10, .number = EAGAIN } },
		{ "stream, full buffers, no RWF_NOWAIT", { .mtu = 1500, .no_nowait = 1, .error = 10, .number = EAGAIN } },
		{ "stream, full queues", { .mtu = 1500, .error = 10, .number = ENOBUFS } },
		{ "stream, firewall", { .mtu = 1500, .error = 10, .number = EPERM } },
	};
	uint32_t i, lengths, place;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (lengths = FEW; lengths <= SUPER; lengths++) {
			struct fixture *fixture = begin(cases[i].name);
			uint64_t refused = 0;

			kernel = cases[i].kernel;
			kernel.no_nowait &= !polls;
			kernel.random = i * 3 + lengths + 1;
			stream(fixture, lengths);
			for (place = 0; place < SOCKETS; place++) {
				refused += fixture->segment->outputs[place].refused;
				if (kernel.error == 0)
					CHECK_EQUAL(errors(&fixture->segment->outputs[place]), 0);
			}
			if (kernel.mtu == 1500)
				CHECK_EQUAL(refused, kernel.reports);
			end(fixture);
		}
}

int main(void)
{
	for (polls = 0; polls < 2; polls++) {
		test_one_write();
		test_super_frame();
		test_limits();
		test_in_hand();
		test_empty_place();
		test_larger_than_the_mtu();
		test_no_offload();
		test_no_option();
		test_full_queue();
		test_waits_that_fail();
		test_no_room_for_a_pause();
		test_streams();
	}
	return check_result();
}
