/*
 * svc.h: what every test service has in common.
 *
 * A program keeps one kind of state and describes it with a struct svc_ops. svc_main() listens on the
 * addresses in argv, serves one-line requests with one-line replies, and never returns:
 *
 *	get		the sum of all mutations, read back out of the state under test
 *	mutate N	adds N to it
 *	verify		"ok", "ok REMARK" or "FAIL: what"
 *	spoil		damages the state as a bad engine would; verify has to fail afterwards
 *	eintr		how many calls returned EINTR, although no signal was ever sent from outside
 *	cadd N, cget	adds to, reads the counter that belongs to this connection alone
 *	open, via	how many connections are open; which listener accepted this one
 *	crash HOW	SEGV, ABRT, BUS, ILL, FPE, or EXIT (status 3)
 *	quit		exits with status 0
 *
 * Include it first. It needs -O2 -pthread and nothing else.
 */
#ifndef SVC_H
#define SVC_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct svc_ops {
	uint64_t (*get)(void);
	void (*mutate)(uint64_t n);
	const char *(*verify)(void); /* NULL: all is well; a text that begins with "ok": well, with a remark */
	void (*spoil)(void);
	int (*extra)(const char *line, char *reply, size_t size); /* optional; 0: not mine */
};

struct svc_conn {
	int fd;
	int via;
	unsigned len;
	uint64_t count;
	char buf[256];
};

static const struct svc_ops *svc_ops;
static uint64_t svc_eintr_count;
static int svc_open_count;
static pthread_mutex_t svc_lock = PTHREAD_MUTEX_INITIALIZER;

static void svc_die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* svc_lack ends a program that stands for something which this machine does not have. */
static void svc_lack(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(77);
}

/* SVC_TRY ends the program if a call fails that the test cannot do without. */
#define SVC_TRY(call) \
	({ \
		__typeof__(call) svc_r = (call); \
		if (svc_r == (__typeof__(call))-1) \
			svc_die(#call); \
		svc_r; \
	})

/* SVC_COUNT passes the result of a call on and counts EINTR. */
#define SVC_COUNT(call) \
	({ \
		__typeof__(call) svc_r = (call); \
		if (svc_r == (__typeof__(call))-1 && errno == EINTR) \
			__atomic_add_fetch(&svc_eintr_count, 1, __ATOMIC_RELAXED); \
		svc_r; \
	})

/* svc_fail makes the text of a failed verify. */
__attribute__((format(printf, 1, 2))) static const char *svc_fail(const char *fmt, ...)
{
	static __thread char text[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return text;
}

/* svc_nap sleeps for about a millisecond. */
static void svc_nap(void)
{
	struct timespec ts = { 0, 1000000 };

	SVC_COUNT(nanosleep(&ts, NULL));
}

/* SVC_WAIT waits until cond holds, for 10,000 naps at most; it says whether it came true. A clock would go on while dormant. */
#define SVC_WAIT(cond) \
	({ \
		int svc_left = 10000, svc_true; \
		while (!(svc_true = !!(cond)) && svc_left-- > 0) \
			svc_nap(); \
		svc_true; \
	})

__attribute__((noinline)) static void svc_crash_bus(void)
{
	char path[] = "/dev/shm/corsa-bus-XXXXXX";
	int fd = SVC_TRY(mkstemp(path));
	volatile char *p;

	unlink(path);
	SVC_TRY(ftruncate(fd, 4096));
	p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	SVC_TRY(ftruncate(fd, 0));
	(void)p[0];
}

static void svc_crash(const char *how)
{
	volatile int zero = 0;

	if (!strcmp(how, "SEGV"))
		*(volatile int *)(uintptr_t)(zero + 8) = 1;
	else if (!strcmp(how, "ABRT"))
		abort();
	else if (!strcmp(how, "BUS"))
		svc_crash_bus();
	else if (!strcmp(how, "ILL"))
		__asm__ volatile("ud2");
	else if (!strcmp(how, "FPE"))
		__asm__ volatile("xor %%edx, %%edx\n\tdivl %0" : : "r"(zero), "a"(1) : "edx");
	else if (!strcmp(how, "EXIT"))
		exit(3);
}

static void svc_request(struct svc_conn *c, const char *line, char *reply, size_t size)
{
	const char *bad;

	if (!strcmp(line, "get")) {
		snprintf(reply, size, "%llu", (unsigned long long)svc_ops->get());
	} else if (!strncmp(line, "mutate ", 7)) {
		svc_ops->mutate(strtoull(line + 7, NULL, 10));
		snprintf(reply, size, "ok");
	} else if (!strcmp(line, "verify")) {
		bad = svc_ops->verify();
		snprintf(reply, size, "%s%s", !bad || !strncmp(bad, "ok", 2) ? "" : "FAIL: ", bad ? bad : "ok");
	} else if (!strcmp(line, "spoil")) {
		svc_ops->spoil();
		snprintf(reply, size, "ok");
	} else if (!strcmp(line, "eintr")) {
		snprintf(reply, size, "%llu", (unsigned long long)svc_eintr_count);
	} else if (!strncmp(line, "cadd ", 5)) {
		c->count += strtoull(line + 5, NULL, 10);
		snprintf(reply, size, "ok");
	} else if (!strcmp(line, "cget")) {
		snprintf(reply, size, "%llu", (unsigned long long)c->count);
	} else if (!strcmp(line, "open")) {
		snprintf(reply, size, "%d", svc_open_count);
	} else if (!strcmp(line, "via")) {
		snprintf(reply, size, "%d", c->via);
	} else if (!strncmp(line, "crash ", 6)) {
		svc_crash(line + 6);
		snprintf(reply, size, "FAIL: cannot crash by %s", line + 6);
	} else if (!strcmp(line, "quit")) {
		exit(0);
	} else if (!svc_ops->extra || !svc_ops->extra(line, reply, size)) {
		snprintf(reply, size, "FAIL: unknown request");
	}
}

static int svc_reply(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t w = SVC_COUNT(write(fd, p, n));

		if (w < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (w < 0)
			return -1;
		p += w;
		n -= w;
	}
	return 0;
}

/*
 * svc_input reads once from a connection that is ready and serves the requests that are complete.
 * 1: there was something; 0: nothing for now; -1: the peer is gone.
 */
static int svc_input(struct svc_conn *c)
{
	ssize_t n = SVC_COUNT(read(c->fd, c->buf + c->len, sizeof(c->buf) - 1 - c->len));
	char *nl, reply[256];

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (n == 0)
		return -1;
	c->len += n;
	c->buf[c->len] = 0;
	while ((nl = memchr(c->buf, '\n', c->len))) {
		*nl = 0;
		pthread_mutex_lock(&svc_lock);
		svc_request(c, c->buf, reply, sizeof(reply) - 1);
		pthread_mutex_unlock(&svc_lock);
		strcat(reply, "\n");
		c->len -= nl + 1 - c->buf;
		memmove(c->buf, nl + 1, c->len);
		if (svc_reply(c->fd, reply, strlen(reply)))
			return -1;
	}
	return c->len == sizeof(c->buf) - 1 ? -1 : 1;
}

#include "loop.h"
#endif
