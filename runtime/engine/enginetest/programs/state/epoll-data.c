//: doc an epoll set of 64 descriptors: level, edge and one-shot, armed and disarmed, each with its data
//: object epoll: level, edge, one-shot, with data
#include "svc.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { N = 64 };

static int ep, fds[N];
static uint64_t sum;

static uint64_t data_of(int i)
{
	return 0xfeed000000000000ull + sum * 1000 + i;
}

static uint32_t events_of(int i)
{
	return EPOLLIN | (i % 4 == 1 ? EPOLLET : i % 4 >= 2 ? EPOLLONESHOT : 0);
}

static void put(int i)
{
	uint64_t one = 1;

	if (write(fds[i], &one, 8) != 8)
		svc_die("eventfd");
}

static void drain(int i)
{
	uint64_t value;

	SVC_COUNT(read(fds[i], &value, 8));
}

static int pending(uint64_t *data)
{
	struct epoll_event e = { 0 };
	int n = SVC_COUNT(epoll_wait(ep, &e, 1, 0));

	*data = e.data.u64;
	return n;
}

/* arm gives descriptor i its events and data; every fourth one is disarmed by an event. */
static void arm(int i)
{
	struct epoll_event e = { .events = events_of(i), .data.u64 = data_of(i) };
	uint64_t data;

	SVC_TRY(epoll_ctl(ep, EPOLL_CTL_MOD, fds[i], &e));
	if (i % 4 != 3)
		return;
	put(i);
	pending(&data);
	drain(i);
}

static uint64_t get(void)
{
	return sum;
}

static void mutate(uint64_t n)
{
	sum += n;
	for (int i = 0; i < N; i++)
		arm(i);
}

static const char *verify(void)
{
	uint64_t data;

	while (pending(&data) > 0) /* a spurious edge is allowed, a readable descriptor is not */
		if (data - data_of(0) >= N || (data - data_of(0)) % 4 != 1)
			return svc_fail("data %llx is ready", (unsigned long long)data);
	for (int i = 0; i < N; i++) {
		int n;

		put(i);
		n = pending(&data);
		drain(i);
		if (n != (i % 4 != 3))
			return svc_fail("descriptor %d: %d events", i, n);
		if (n && data != data_of(i))
			return svc_fail("descriptor %d: data %llx", i, (unsigned long long)data);
		if (i % 4 >= 2)
			arm(i);
	}
	return NULL;
}

static void spoil(void)
{
	SVC_TRY(epoll_ctl(ep, EPOLL_CTL_DEL, fds[N - 4], NULL));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	ep = SVC_TRY(epoll_create1(EPOLL_CLOEXEC));
	for (int i = 0; i < N; i++) {
		struct epoll_event e = { .events = 0 };

		fds[i] = SVC_TRY(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
		SVC_TRY(epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &e));
		arm(i);
	}
	return svc_main(argc, argv, &ops);
}
