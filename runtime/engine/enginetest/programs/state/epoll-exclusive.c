//: doc EPOLLEXCLUSIVE and edge-triggered entries in two sets: their flags are kept, and one event wakes
//: object epoll: exclusive entries
#include "svc.h"
#include "sum.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int sets[2], fd;

/* flags of the one entry of a set, as the kernel tells. */
static uint32_t flags(int set)
{
	char path[64], line[256];
	unsigned events = 0;
	int tfd;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", set);
	f = fopen(path, "re");
	if (!f)
		svc_die(path);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "tfd: %d events: %x", &tfd, &events);
	fclose(f);
	return events;
}

static const char *verify(void)
{
	struct epoll_event e;
	uint64_t one = 1;

	for (int i = 0; i < 2; i++) {
		if (!(flags(sets[i]) & EPOLLEXCLUSIVE) || !(flags(sets[i]) & EPOLLIN) || !(flags(sets[i]) & EPOLLET) != !i)
			return svc_fail("the flags of set %d are %x", i, flags(sets[i]));
		SVC_COUNT(epoll_wait(sets[i], &e, 1, 0)); /* a spurious edge is allowed */
	}
	if (write(fd, &one, 8) != 8)
		svc_die("eventfd");
	for (int i = 0; i < 2; i++)
		if (SVC_COUNT(epoll_wait(sets[i], &e, 1, 0)) != 1 || e.data.u64 != 4711u + i)
			return svc_fail("set %d does not tell", i);
	SVC_TRY(read(fd, &one, 8));
	return NULL;
}

static void spoil(void)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLET };

	SVC_TRY(epoll_ctl(sets[1], EPOLL_CTL_DEL, fd, NULL));
	SVC_TRY(epoll_ctl(sets[1], EPOLL_CTL_ADD, fd, &e));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };

	fd = SVC_TRY(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	for (int i = 0; i < 2; i++) {
		struct epoll_event e = { .events = EPOLLIN | EPOLLEXCLUSIVE | (i ? EPOLLET : 0), .data.u64 = 4711 + i };

		sets[i] = SVC_TRY(epoll_create1(EPOLL_CLOEXEC));
		SVC_TRY(epoll_ctl(sets[i], EPOLL_CTL_ADD, fd, &e));
	}
	return svc_main(argc, argv, &ops);
}
