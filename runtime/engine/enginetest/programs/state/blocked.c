//: doc threads in every call that waits: no EINTR, no wake-up lost, and timed waits go on
//: object threads blocked in system calls
#include "svc.h"
#include <linux/futex.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>

/* A waiter counts what it is told (seen) and how often its call has timed out (laps). */
struct waiter {
	const char *name;
	void (*wait)(struct waiter *);
	void (*tell)(struct waiter *);
	int timed;
	uint64_t seen, laps;
	pthread_t thread;
	int fd[2], ep;
	uint32_t word;
	sem_t sem;
};

static uint64_t told;
static const struct timespec brief = { 0, 3000000 };

static void saw(struct waiter *w, uint64_t n)
{
	__atomic_add_fetch(&w->seen, n, __ATOMIC_RELEASE);
}

static void lapped(struct waiter *w)
{
	__atomic_add_fetch(&w->laps, 1, __ATOMIC_RELEASE);
}

static void futex(struct waiter *w, const struct timespec *ts)
{
	uint32_t now = __atomic_load_n(&w->word, __ATOMIC_ACQUIRE);

	if (now != (uint32_t)w->seen)
		saw(w, now - (uint32_t)w->seen);
	else if (SVC_COUNT(syscall(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, now, ts)) && errno == ETIMEDOUT)
		lapped(w);
}

static void in_futex(struct waiter *w)
{
	futex(w, NULL);
}

static void in_futex_brief(struct waiter *w)
{
	futex(w, &brief);
}

static void in_futex_long(struct waiter *w)
{
	futex(w, &(struct timespec){ 1000, 0 });
}

static void tell_futex(struct waiter *w)
{
	__atomic_add_fetch(&w->word, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &w->word, FUTEX_WAKE_PRIVATE, 1);
}

static void in_nanosleep(struct waiter *w)
{
	if (!SVC_COUNT(nanosleep(&brief, NULL)))
		lapped(w);
}

static void in_clock_nanosleep(struct waiter *w)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_nsec += 3000000;
	if (at.tv_nsec >= 1000000000) {
		at.tv_nsec -= 1000000000;
		at.tv_sec++;
	}
	errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
	if (SVC_COUNT(errno ? -1 : 0) == 0)
		lapped(w);
}

static void drain(struct waiter *w)
{
	char buf[64];
	ssize_t n = SVC_COUNT(read(w->fd[0], buf, sizeof(buf)));

	if (n > 0)
		saw(w, n);
}

static void ready(struct waiter *w, int n)
{
	if (n > 0)
		drain(w);
	else if (n == 0)
		lapped(w);
}

static void in_poll(struct waiter *w)
{
	struct pollfd p = { .fd = w->fd[0], .events = POLLIN };

	ready(w, SVC_COUNT(poll(&p, 1, w->timed ? 3 : -1)));
}

static void in_poll_long(struct waiter *w)
{
	struct pollfd p = { .fd = w->fd[0], .events = POLLIN };

	ready(w, SVC_COUNT(poll(&p, 1, 1000000)));
}

static void in_select(struct waiter *w)
{
	struct timeval tv = { 0, 3000 };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(w->fd[0], &set);
	ready(w, SVC_COUNT(select(w->fd[0] + 1, &set, NULL, NULL, w->timed ? &tv : NULL)));
}

static void in_epoll(struct waiter *w)
{
	struct epoll_event e;

	ready(w, SVC_COUNT(epoll_wait(w->ep, &e, 1, w->timed ? 3 : -1)));
}

static void in_read(struct waiter *w)
{
	drain(w);
}

static void in_recv(struct waiter *w)
{
	char buf[64];
	ssize_t n = SVC_COUNT(recv(w->fd[0], buf, sizeof(buf), 0));

	if (n > 0)
		saw(w, n);
}

static void tell_fd(struct waiter *w)
{
	if (write(w->fd[1], "x", 1) != 1)
		svc_die("write");
}

static void in_sem(struct waiter *w)
{
	if (SVC_COUNT(sem_wait(&w->sem)) == 0)
		saw(w, 1);
}

static void in_sem_timed(struct waiter *w)
{
	struct timespec at;

	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_sec += (at.tv_nsec + 3000000) / 1000000000;
	at.tv_nsec = (at.tv_nsec + 3000000) % 1000000000;
	if (SVC_COUNT(sem_timedwait(&w->sem, &at)) == 0)
		saw(w, 1);
	else if (errno == ETIMEDOUT)
		lapped(w);
}

static void tell_sem(struct waiter *w)
{
	sem_post(&w->sem);
}

static void in_sigwait(struct waiter *w)
{
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sig = SVC_COUNT(sigtimedwait(&set, NULL, w->timed ? &brief : NULL));
	if (sig == SIGUSR1)
		saw(w, 1);
	else if (sig < 0 && errno == EAGAIN)
		lapped(w);
}

static void tell_sigwait(struct waiter *w)
{
	uint64_t before = __atomic_load_n(&w->seen, __ATOMIC_ACQUIRE);

	pthread_kill(w->thread, SIGUSR1);
	SVC_WAIT(__atomic_load_n(&w->seen, __ATOMIC_ACQUIRE) > before); /* such signals do not queue */
}

static struct waiter waiters[] = {
	{ .name = "futex", .wait = in_futex, .tell = tell_futex },
	{ .name = "futex (3 ms)", .wait = in_futex_brief, .tell = tell_futex, .timed = 1 },
	{ .name = "futex (1000 s)", .wait = in_futex_long, .tell = tell_futex },
	{ .name = "nanosleep", .wait = in_nanosleep, .timed = 1 },
	{ .name = "clock_nanosleep", .wait = in_clock_nanosleep, .timed = 1 },
	{ .name = "poll", .wait = in_poll, .tell = tell_fd },
	{ .name = "poll (3 ms)", .wait = in_poll, .tell = tell_fd, .timed = 1 },
	{ .name = "poll (1000 s)", .wait = in_poll_long, .tell = tell_fd },
	{ .name = "select", .wait = in_select, .tell = tell_fd },
	{ .name = "select (3 ms)", .wait = in_select, .tell = tell_fd, .timed = 1 },
	{ .name = "epoll_wait", .wait = in_epoll, .tell = tell_fd },
	{ .name = "epoll_wait (3 ms)", .wait = in_epoll, .tell = tell_fd, .timed = 1 },
	{ .name = "read of a pipe", .wait = in_read, .tell = tell_fd },
	{ .name = "recv of a socket pair", .wait = in_recv, .tell = tell_fd },
	{ .name = "sem_wait", .wait = in_sem, .tell = tell_sem },
	{ .name = "sem_timedwait", .wait = in_sem_timed, .tell = tell_sem, .timed = 1 },
	{ .name = "sigwaitinfo", .wait = in_sigwait, .tell = tell_sigwait },
	{ .name = "sigtimedwait", .wait = in_sigwait, .tell = tell_sigwait, .timed = 1 },
};

enum { WAITERS = sizeof(waiters) / sizeof(waiters[0]) };

static void *wait_for_ever(void *arg)
{
	struct waiter *w = arg;

	for (;;)
		w->wait(w);
	return NULL;
}

static uint64_t get(void)
{
	uint64_t low = ~0ull;

	for (int i = 0; i < WAITERS; i++) {
		struct waiter *w = &waiters[i];

		if (!w->tell)
			continue;
		SVC_WAIT(__atomic_load_n(&w->seen, __ATOMIC_ACQUIRE) >= told);
		if (w->seen < low)
			low = w->seen;
	}
	return low;
}

static void mutate(uint64_t n)
{
	for (uint64_t k = 0; k < n; k++)
		for (int i = 0; i < WAITERS; i++)
			if (waiters[i].tell)
				waiters[i].tell(&waiters[i]);
	told += n;
}

static const char *verify(void)
{
	get();
	for (int i = 0; i < WAITERS; i++) {
		struct waiter *w = &waiters[i];
		uint64_t before = __atomic_load_n(&w->laps, __ATOMIC_ACQUIRE);

		if (w->tell && w->seen != told)
			return svc_fail("%s was told %llu times and saw %llu", w->name, (unsigned long long)told,
					(unsigned long long)w->seen);
		if (w->timed && !SVC_WAIT(__atomic_load_n(&w->laps, __ATOMIC_ACQUIRE) > before))
			return svc_fail("%s does not time out any more", w->name);
	}
	return NULL;
}

static void spoil(void)
{
	waiters[5].seen++;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < WAITERS; i++) {
		struct waiter *w = &waiters[i];

		sem_init(&w->sem, 0, 0);
		if (w->wait == in_recv)
			SVC_TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w->fd));
		else if (w->tell == tell_fd)
			SVC_TRY(pipe2(w->fd, O_CLOEXEC));
		if (w->wait == in_epoll) {
			struct epoll_event e = { .events = EPOLLIN, .data.ptr = w };

			w->ep = SVC_TRY(epoll_create1(EPOLL_CLOEXEC));
			SVC_TRY(epoll_ctl(w->ep, EPOLL_CTL_ADD, w->fd[0], &e));
		}
		if (pthread_create(&w->thread, NULL, wait_for_ever, w))
			svc_die("pthread_create");
	}
	return svc_main(argc, argv, &ops);
}
