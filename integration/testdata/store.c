// SPDX-License-Identifier: Apache-2.0
/*
 * A store that can be hurt in every way. It serves one line protocol on the unix socket argv[1] with epoll, and has two
 * workers that compute its checksum with it. A request is NAME WORD [NUMBER]; the first name stays. All that it holds
 * follows from a name and a number: after step n, the cells that step n writes hold mix(name, n, cell). So whoever knows
 * both can tell from the checksum alone whether every cell is right.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CELLS	16384
#define WRITES	64	/* cells that a step writes */
#define WORKERS 2

static uint64_t name, steps, interrupted, *cells;
static int *volatile nowhere = (int *)8;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static uint64_t round_no, part[WORKERS];
static int pending;

static uint64_t mix(uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t x = a * 0x9e3779b97f4a7c15ULL ^ b * 0xbf58476d1ce4e5b9ULL ^ c * 0x94d049bb133111ebULL;

	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ULL;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

static void *worker(void *arg)
{
	uint64_t seen = 0;
	long me = (long)arg;

	pthread_mutex_lock(&lock);
	for (;;) {
		while (round_no == seen)
			pthread_cond_wait(&work, &lock);
		seen = round_no;
		pthread_mutex_unlock(&lock);

		uint64_t sum = 0;

		for (long i = me; i < CELLS; i += WORKERS)
			sum += mix(name, (uint64_t)i, cells[i]);
		pthread_mutex_lock(&lock);
		part[me] = sum;
		if (--pending == 0)
			pthread_cond_signal(&done);
	}
	return NULL;
}

static uint64_t checksum(void)
{
	uint64_t sum = steps;

	pthread_mutex_lock(&lock);
	pending = WORKERS;
	round_no++;
	pthread_cond_broadcast(&work);
	while (pending)
		pthread_cond_wait(&done, &lock);
	for (int i = 0; i < WORKERS; i++)
		sum += part[i];
	pthread_mutex_unlock(&lock);
	return sum;
}

static void step(void)
{
	steps++;
	for (uint64_t i = 0; i < WRITES; i++) {
		uint64_t at = mix(name, steps, i) % CELLS;

		cells[at] = mix(name, steps, at);
	}
}

/* Overwrites what it can, without sense, until it dies. */
static void wild(uint64_t seed)
{
	unsigned long from[64], to[64];
	int n = 0;
	char line[512];
	FILE *f = fopen("/proc/self/maps", "re");

	while (f && n < 64 && fgets(line, sizeof(line), f)) {
		char perms[5];

		if (sscanf(line, "%lx-%lx %4s", &from[n], &to[n], perms) == 3 && perms[1] == 'w')
			n++;
	}
	for (uint64_t i = 0; i < 5000 && n; i++) {
		uint64_t r = mix(seed, i, 1), m = mix(seed, i, 2) % (uint64_t)n;

		*(volatile uint64_t *)(from[m] + (r % (to[m] - from[m]) & ~7UL)) = r;
	}
	*nowhere = 1;
}

static void bomb(void)
{
	/* Children stay, so that the limit is reached. */
	for (;;) {
		pid_t pid = fork();

		if (pid < 0)
			break;
		if (pid == 0)
			for (;;)
				pause();
	}
	abort();
}

static void eat(void)
{
	for (;;) {
		char *p = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			abort();
		memset(p, 0x5a, 8 << 20);
	}
}

static int overflow(int depth)
{
	volatile char frame[4096];

	frame[0] = (char)depth;
	return depth < 0 ? 0 : overflow(depth + 1) + frame[0];
}

static void answer(int fd)
{
	char request[128], reply[160];
	ssize_t n = read(fd, request, sizeof(request) - 1);
	uint64_t arg = 0;

	if (n <= 0) {
		if (n == 0 || errno != EAGAIN)
			close(fd);
		return;
	}
	request[n] = 0;
	char *line = strchr(request, ' ');

	if (!line)
		return;
	if (!name)
		name = strtoull(request, NULL, 10);
	line++;
	char *blank = strchr(line, ' ');

	if (blank)
		arg = strtoull(blank + 1, NULL, 10);
	if (!strncmp(line, "step ", 5)) {
		for (; arg; arg--)
			step();
	} else if (!strncmp(line, "segv", 4)) {
		*nowhere = 1;
	} else if (!strncmp(line, "abort", 5)) {
		abort();
	} else if (!strncmp(line, "wild ", 5)) {
		wild(arg);
	} else if (!strncmp(line, "exit", 4)) {
		exit(3);
	} else if (!strncmp(line, "hang", 4)) {
		for (volatile int spin = 0;; spin++)
			;
	} else if (!strncmp(line, "bomb", 4)) {
		bomb();
	} else if (!strncmp(line, "eat", 3)) {
		eat();
	} else if (!strncmp(line, "overflow", 8)) {
		overflow(0);
	}
	int len = snprintf(reply, sizeof(reply), "%" PRIu64 " %" PRIu64 " %" PRIx64 " %" PRIu64 "\n", name, steps,
			   checksum(), interrupted);

	if (write(fd, reply, (size_t)len) != len)
		close(fd);
}

int main(int argc, char **argv)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int ep, listener;

	if (argc != 2)
		return 2;
	setvbuf(stdout, NULL, _IONBF, 0);
	signal(SIGPIPE, SIG_IGN);
	cells = mmap(NULL, CELLS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	strncpy(sun.sun_path, argv[1], sizeof(sun.sun_path) - 1);
	for (long i = 0; i < WORKERS; i++) {
		pthread_t t;

		if (pthread_create(&t, NULL, worker, (void *)i))
			return 1;
	}
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (cells == MAP_FAILED || listener < 0 || ep < 0 || bind(listener, (struct sockaddr *)&sun, sizeof(sun)) ||
	    chmod(argv[1], 0777) || listen(listener, 64)) {
		perror("store");
		return 1;
	}
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = listener };

	epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev);
	for (;;) {
		struct epoll_event got[16];
		int n = epoll_wait(ep, got, 16, -1);

		if (n < 0 && errno != EINTR) {
			perror("store: epoll_wait");
			return 1;
		}
		interrupted += n < 0; /* nobody sends it signals */
		for (int i = 0; i < n; i++) {
			int fd = got[i].data.fd;

			if (fd != listener) {
				answer(fd);
				continue;
			}
			fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
			ev = (struct epoll_event){ .events = EPOLLIN, .data.fd = fd };
			if (fd >= 0)
				epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
		}
	}
}
