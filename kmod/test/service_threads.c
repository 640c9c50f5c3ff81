// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "service_threads.h"

pthread_t spawn(void *(*function)(void *))
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 << 10);
	if (pthread_create(&thread, &attr, function, NULL))
		_exit(90);
	return thread;
}

void *sleep_thread(void *unused)
{
	(void)unused;
	for (;;) {
		struct timespec nap = { .tv_nsec = 3000000 };

		if (nanosleep(&nap, NULL))
			note_eintr();
		__atomic_add_fetch(&state.ticks, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

void *epoll_thread(void *unused)
{
	int epfd = epoll_create1(0), never = eventfd(0, 0);
	struct epoll_event event = { .events = EPOLLIN };

	(void)unused;
	epoll_ctl(epfd, EPOLL_CTL_ADD, never, &event);
	for (;;)
		if (epoll_wait(epfd, &event, 1, -1) < 0)
			note_eintr();
	return NULL;
}

void *poll_thread(void *unused)
{
	struct pollfd never = { .fd = eventfd(0, 0), .events = POLLIN };

	(void)unused;
	for (;;)
		if (poll(&never, 1, -1) < 0)
			note_eintr();
	return NULL;
}

void *pause_thread(void *unused)
{
	(void)unused;
	for (;;)
		pause();
	return NULL;
}

void *spin_thread(void *unused)
{
	(void)unused;
	for (;;)
		__asm__ volatile("pause");
	return NULL;
}

/* What threads have taken that wait in a call which takes. */
static uint64_t taken[TAKERS], tapped;
static pthread_t sigwait_thread;
static int signal_fd = -1;
int tap[2];

static void *take_by_sigwait(void *unused)
{
	sigset_t set;

	(void)unused;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	for (;;) {
		if (sigwaitinfo(&set, NULL) == SIGUSR2)
			__atomic_add_fetch(&taken[BY_SIGWAIT], 1, __ATOMIC_RELEASE);
		else
			note_eintr();
	}
	return NULL;
}

static void *take_by_signalfd(void *unused)
{
	struct signalfd_siginfo info;

	(void)unused;
	for (;;) {
		if (read(signal_fd, &info, sizeof(info)) == sizeof(info))
			__atomic_add_fetch(&taken[BY_SIGNALFD], 1, __ATOMIC_RELEASE);
		else
			note_eintr();
	}
	return NULL;
}

static void *take_from_pipe(void *unused)
{
	char byte;

	(void)unused;
	for (;;) {
		if (read(tap[0], &byte, 1) == 1)
			__atomic_add_fetch(&tapped, 1, __ATOMIC_RELEASE);
		else
			note_eintr();
	}
	return NULL;
}

void prepare_takers(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal_fd = signalfd(-1, &set, 0);
	if (signal_fd < 0 || pipe(tap))
		_exit(97);
	sigwait_thread = spawn(take_by_sigwait);
	spawn(take_by_signalfd);
	spawn(take_from_pipe);
}

/* A signal that is already pending would swallow the next, so one by one. */
uint64_t tell(uint64_t taker)
{
	uint64_t before = __atomic_load_n(&taken[taker], __ATOMIC_ACQUIRE);
	int left = 4000;

	if (taker == BY_SIGWAIT)
		pthread_kill(sigwait_thread, SIGUSR2);
	else
		kill(getpid(), SIGRTMIN);
	while (__atomic_load_n(&taken[taker], __ATOMIC_ACQUIRE) == before && left--)
		usleep(500);
	return __atomic_load_n(&taken[taker], __ATOMIC_ACQUIRE);
}

uint64_t tapped_bytes(void)
{
	return __atomic_load_n(&tapped, __ATOMIC_ACQUIRE);
}

/* Threads that are made and ended by command. */
#define MAX_NEW_THREADS 64

static pthread_mutex_t dismissing = PTHREAD_MUTEX_INITIALIZER;
static pthread_t new_threads[MAX_NEW_THREADS];
static uint64_t dismissed;
static pthread_cond_t dismissal = PTHREAD_COND_INITIALIZER;

static void *new_thread(void *arg)
{
	uint64_t index = (uint64_t)(uintptr_t)arg;

	pthread_mutex_lock(&dismissing);
	while (dismissed <= index)
		pthread_cond_wait(&dismissal, &dismissing);
	pthread_mutex_unlock(&dismissing);
	return arg;
}

void thread_new(void)
{
	uint64_t index = state.threads;

	pthread_mutex_lock(&dismissing);
	dismissed = 0;
	pthread_mutex_unlock(&dismissing);
	if (pthread_create(&new_threads[index], NULL, new_thread,
			   (void *)(uintptr_t)index))
		_exit(91);
	state.threads++;
}

void thread_exit(void)
{
	void *result;

	state.threads = 0;
	pthread_mutex_lock(&dismissing);
	dismissed = MAX_NEW_THREADS;
	pthread_cond_broadcast(&dismissal);
	pthread_mutex_unlock(&dismissing);
	state.value = pthread_join(new_threads[0], &result);
	if (result)
		state.value = 1000;
}
