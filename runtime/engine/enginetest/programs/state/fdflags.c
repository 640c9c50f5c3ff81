//: doc numbers and flags of descriptors: close-on-exec, non-blocking, and numbers far apart
//: object descriptor numbers and flags
#include "svc.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static struct slot {
	int fd, flags, fdflags;
} slots[16];

static int count, top = 900;
static uint64_t sum;

/* place moves fd to a number of its own. */
static void place(int fd, int cloexec)
{
	int to = 40 + count * 17;

	SVC_TRY(dup3(fd, to, cloexec ? O_CLOEXEC : 0));
	close(fd);
	slots[count++] = (struct slot){ .fd = to, .flags = SVC_TRY(fcntl(to, F_GETFL)), .fdflags = SVC_TRY(fcntl(to, F_GETFD)) };
}

static uint64_t get(void)
{
	return sum;
}

/* mutate moves one descriptor up and down, and closes what was there. */
static void mutate(uint64_t n)
{
	sum += n;
	close(top);
	top = 700 + sum % 300;
	SVC_TRY(dup3(slots[0].fd, top, O_CLOEXEC));
}

static const char *verify(void)
{
	for (int i = 0; i < count; i++) {
		int flags = fcntl(slots[i].fd, F_GETFL), fdflags = fcntl(slots[i].fd, F_GETFD);

		if (flags != slots[i].flags || fdflags != slots[i].fdflags)
			return svc_fail("descriptor %d has the flags %x and %x, not %x and %x", slots[i].fd, flags, fdflags,
					slots[i].flags, slots[i].fdflags);
	}
	for (int fd = 700; fd < 1000; fd++)
		if ((fcntl(fd, F_GETFD) >= 0) != (fd == top))
			return svc_fail("descriptor %d is %s", fd, fd == top ? "gone" : "too much");
	return NULL;
}

static void spoil(void)
{
	SVC_TRY(fcntl(slots[3].fd, F_SETFD, slots[3].fdflags ^ FD_CLOEXEC));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	int p[2];

	place(SVC_TRY(open("/dev/null", O_RDONLY | O_NONBLOCK)), 0);
	place(SVC_TRY(open("/dev/zero", O_RDWR)), 1);
	place(SVC_TRY(eventfd(0, EFD_NONBLOCK)), 0);
	place(SVC_TRY(eventfd(3, 0)), 1);
	SVC_TRY(pipe2(p, O_NONBLOCK));
	place(p[0], 0);
	SVC_TRY(fcntl(p[1], F_SETFL, 0));
	place(p[1], 1);
	SVC_TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p));
	place(p[0], 0);
	SVC_TRY(fcntl(p[1], F_SETFL, 0));
	place(p[1], 1);
	place(SVC_TRY(epoll_create1(0)), 0);
	place(SVC_TRY(timerfd_create(CLOCK_MONOTONIC, 0)), 0);
	place(SVC_TRY(open("/proc/self/exe", O_RDONLY | O_NOATIME)), 0);
	SVC_TRY(dup3(slots[0].fd, top, O_CLOEXEC));
	return svc_main(argc, argv, &ops);
}
