//: doc one-shot entries that have had their event: not even a hang-up is told before they are armed again
//: object epoll: one-shot entries that have had their event
//: engine kmod partly: armed for errors and hang-ups after a restore
#include "svc.h"
#include "sum.h"
#include <sys/epoll.h>

enum { N = 5 };

static int ep, pairs[N][2];

static uint32_t mode(int i)
{
	return EPOLLONESHOT | (i % 2 ? EPOLLET : 0);
}

static int next(uint64_t *data, uint32_t *events)
{
	struct epoll_event e = { 0 };
	int n = SVC_COUNT(epoll_wait(ep, &e, 1, 0));

	*data = e.data.u64;
	*events = e.events;
	return n;
}

/* make makes pair i and an entry for its first end that is spent at once. Two entries have the same data. */
static void make(int i)
{
	struct epoll_event e = { .events = EPOLLOUT | mode(i), .data.u64 = 100 + (i == N - 1 ? 0 : i) };
	uint32_t events;
	uint64_t data;

	SVC_TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pairs[i]));
	SVC_TRY(epoll_ctl(ep, EPOLL_CTL_ADD, pairs[i][0], &e));
	if (next(&data, &events) != 1 || data != e.data.u64)
		svc_die("the event that is to disarm the entry");
}

static const char *verify(void)
{
	uint32_t events;
	uint64_t data;

	for (int i = 0; i < N; i++) {
		struct epoll_event e = { .events = EPOLLIN | mode(i), .data.u64 = 200 + i };

		if (next(&data, &events))
			return svc_fail("event %x out of nothing", events);
		close(pairs[i][1]);
		if (next(&data, &events))
			return svc_fail("event %x (%llu) of an entry that is spent", events, (unsigned long long)data);
		SVC_TRY(epoll_ctl(ep, EPOLL_CTL_MOD, pairs[i][0], &e));
		if (next(&data, &events) != 1 || data != 200u + i || !(events & EPOLLHUP))
			return svc_fail("event %x (%llu) of entry %d that was armed again", events, (unsigned long long)data, i);
		close(pairs[i][0]);
		make(i);
	}
	return NULL;
}

static void spoil(void)
{
	struct epoll_event e = { .events = EPOLLOUT };

	SVC_TRY(epoll_ctl(ep, EPOLL_CTL_MOD, pairs[0][0], &e));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };

	ep = SVC_TRY(epoll_create1(EPOLL_CLOEXEC));
	for (int i = 0; i < N; i++)
		make(i);
	return svc_main(argc, argv, &ops);
}
