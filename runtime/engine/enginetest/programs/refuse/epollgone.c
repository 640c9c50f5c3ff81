//: doc an epoll entry for a file that only another process has open
//: object epoll: entries whose file is gone
//: refuse epoll entry: it cannot be watched anew
#include "svc.h"
#include "plain.h"
#include "outside.h"
#include <sys/eventfd.h>

static void hold(void)
{
	struct epoll_event e = { .events = EPOLLIN };
	int ep = SVC_TRY(epoll_create1(EPOLL_CLOEXEC)), fd = SVC_TRY(eventfd(0, EFD_CLOEXEC)), p[2];

	SVC_TRY(pipe2(p, O_CLOEXEC));
	SVC_TRY(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
	outside(fd, p[1]);
	close(p[1]);
	close(fd);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
