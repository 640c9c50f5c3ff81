//: doc an epoll set inside another
//: object epoll: sets in sets
#include "svc.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int outer, inner, efd;
static uint64_t sum;

static void arm(int op)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = 100000 + sum }, f = { .events = EPOLLIN, .data.u64 = sum };

	SVC_TRY(epoll_ctl(inner, op, efd, &f));
	SVC_TRY(epoll_ctl(outer, op, inner, &e));
}

static uint64_t get(void)
{
	return sum;
}

static void mutate(uint64_t n)
{
	sum += n;
	arm(EPOLL_CTL_MOD);
}

static const char *verify(void)
{
	struct epoll_event e = { 0 }, f = { 0 };
	uint64_t one = 1;
	int m, n;

	if (SVC_COUNT(epoll_wait(outer, &e, 1, 0)))
		return "an event out of nothing";
	if (write(efd, &one, 8) != 8)
		svc_die("eventfd");
	m = SVC_COUNT(epoll_wait(outer, &e, 1, 0));
	n = SVC_COUNT(epoll_wait(inner, &f, 1, 0));
	SVC_TRY(read(efd, &one, 8));
	if (m != 1 || n != 1)
		return svc_fail("%d events outside, %d inside", m, n);
	if (e.data.u64 != 100000 + sum || f.data.u64 != sum)
		return "other data";
	return NULL;
}

static void spoil(void)
{
	SVC_TRY(epoll_ctl(outer, EPOLL_CTL_DEL, inner, NULL));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	/* The outer set has the lower number: it cannot be rebuilt before the inner one. */
	outer = SVC_TRY(epoll_create1(EPOLL_CLOEXEC));
	inner = SVC_TRY(epoll_create1(EPOLL_CLOEXEC));
	efd = SVC_TRY(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	arm(EPOLL_CTL_ADD);
	return svc_main(argc, argv, &ops);
}
