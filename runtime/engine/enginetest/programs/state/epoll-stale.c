//: doc an epoll entry whose descriptor number is closed while a duplicate keeps the file alive
//: object epoll: entries whose number was closed
//: engine kmod refused epoll entry: not open under that number
#include "svc.h"
#include "sum.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int ep, twin, reused;

static const char *verify(void)
{
	struct epoll_event e = { 0 };
	uint64_t one = 1;
	int n;

	/* The number now belongs to another file, which the set does not watch. */
	if (write(reused, &one, 8) != 8)
		svc_die("eventfd");
	n = SVC_COUNT(epoll_wait(ep, &e, 1, 0));
	SVC_TRY(read(reused, &one, 8));
	if (n)
		return "the set watches the file that has taken over the number";
	if (write(twin, &one, 8) != 8)
		svc_die("eventfd");
	n = SVC_COUNT(epoll_wait(ep, &e, 1, 0));
	SVC_TRY(read(twin, &one, 8));
	if (n != 1 || e.data.u64 != 4711)
		return svc_fail("%d events for the file that the set watches", n);
	return NULL;
}

static void spoil(void)
{
	int other = SVC_TRY(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));

	SVC_TRY(dup3(other, twin, O_CLOEXEC)); /* the last reference goes, and the entry with it */
	close(other);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = 4711 };
	int fd, other;

	ep = SVC_TRY(epoll_create1(EPOLL_CLOEXEC));
	fd = SVC_TRY(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	SVC_TRY(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
	twin = SVC_TRY(fcntl(fd, F_DUPFD_CLOEXEC, 100));
	other = SVC_TRY(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	reused = SVC_TRY(dup3(other, fd, O_CLOEXEC));
	close(other);
	return svc_main(argc, argv, &ops);
}
