/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The program that the tests virtualise: a server with threads that wait in
 * every way that matters. It answers one command at a time on a socket.
 */
#ifndef CORSA_TEST_SERVICE_H
#define CORSA_TEST_SERVICE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum command {
	CMD_STEP = 1,	/* every counter one up; fills in the whole reply */
	CMD_PING,	/* nothing; the reply is that of the last command */
	CMD_LOOK,	/* only fills in the reply */
	CMD_TAG,	/* writes arg on every heap page */
	CMD_SEGV,	/* store to address arg */
	CMD_ABORT,
	CMD_JUMP,	/* call address arg */
	CMD_WORKER_SEGV, /* the condition-variable thread stores to arg */
	CMD_EXIT,	/* exit(arg) */
	CMD_THREAD_NEW,	/* one more waiting thread */
	CMD_THREAD_EXIT, /* the newest of these ends, and is joined */
	CMD_CHDIR,	/* arg: 0 "/", 1 "/proc" */
	CMD_SIGNAL,	/* install handler number arg for SIGUSR1, and raise it */
	CMD_FORK,	/* fork a child that exits with arg; reply.value: status */
	CMD_SPAWN,	/* the same by vfork() and exec of this program */
	CMD_EXEC,	/* execute this program with argument "idle" */
	CMD_VECTOR,	/* arg: new content of the vector thread's registers */
	CMD_LOCK,	/* POSIX lock on the data file */
	CMD_WIPE,	/* reply.value: what is in the WIPEONFORK page */
	CMD_EPOLL,	/* wait on the own epoll with timeout 0; value: data or 0 */
	CMD_NAP,	/* sleep arg ms inside the command */
	CMD_TELL,	/* a signal to the thread that waits for it in the way
			   arg, enum taker; reply.value: how many it has got */
	CMD_TAPPED,	/* reply.value: bytes that the thread on a pipe has read */
	CMD_TAP,	/* reply.value: the pipe's end for reading (0), writing (1) */
	CMD_TIME_FORK,	/* reply.value: median ns of arg fork() calls */
	CMD_QUIT,
};

/* Threads that take pending signals: all records share these. */
enum taker { BY_SIGWAIT, BY_SIGNALFD, TAKERS };

struct request {
	uint32_t command;
	uint32_t pad;
	uint64_t arg;
};

struct reply {
	uint64_t steps;		/* heap */
	uint64_t main_tls;
	uint64_t worker_tls;	/* of the thread on a condition variable */
	uint64_t heap_tag;	/* of all pages, or ~0 if they differ */
	uint64_t file_offset;
	uint64_t kept_page;	/* MADV_DONTFORK; counts steps */
	uint64_t vector;	/* in all vector registers, or ~0 if they differ */
	uint64_t ticks;		/* of the thread that sleeps */
	uint64_t eintr;		/* seen by any thread: must stay 0 */
	uint64_t handled;	/* by the SIGUSR1 handler: number * 1000 + count */
	uint64_t cwd_is_proc;
	uint64_t threads;	/* made by CMD_THREAD_NEW and not ended */
	uint64_t value;
	int32_t pid;
	int32_t main_tid;
};

struct service {
	pid_t pid;
	int fd;		/* the test's end of the socket */
	int pidfd;
};

struct service_options {
	size_t heap;		/* bytes */
	int idle_threads;	/* more of those that wait in pause() */
	int spin;		/* one thread that never sleeps */
	int areas;		/* more mappings */
	int takers;		/* threads for CMD_TELL and CMD_TAPPED */
	int bare;		/* the main thread alone; CMD_STEP does not work */
};

int service_start(struct service *service, const struct service_options *options);
/* 0, or -1 with errno: ETIMEDOUT after ten seconds. */
int service_call(struct service *service, uint32_t command, uint64_t arg,
		 struct reply *reply);
/* Kills and reaps; returns the wait status it had. */
int service_stop(struct service *service);

#endif
