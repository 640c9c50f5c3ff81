// SPDX-License-Identifier: GPL-2.0
/*
 * What things cost, beside what they can be compared with, in one run. On an
 * emulated machine only the ratios mean anything. Best with one CPU.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"

#define ROUNDS 2000

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

struct result {
	double p50, p99; /* microseconds */
};

static struct result show(const char *what, uint64_t *ns, int count)
{
	struct result r;

	qsort(ns, count, sizeof(ns[0]), ascending);
	r.p50 = ns[count / 2] / 1000.0;
	r.p99 = ns[count * 99 / 100] / 1000.0;
	printf("%-46s %10.2f us  p99 %10.2f\n", what, r.p50, r.p99);
	return r;
}

static struct result null_call(void)
{
	static uint64_t ns[ROUNDS];
	int i, k;

	for (i = 0; i < ROUNDS; i++) {
		uint64_t begin = now();

		for (k = 0; k < 100; k++)
			syscall(SYS_getppid);
		ns[i] = (now() - begin) / 100;
	}
	return show("null system call", ns, ROUNDS);
}

static struct result ping_pong(void)
{
	static uint64_t ns[ROUNDS];
	int there[2], back[2], i;
	char byte = 0;
	pid_t pid;

	must(!pipe(there) && !pipe(back));
	pid = fork();
	if (!pid) {
		while (read(there[0], &byte, 1) == 1)
			if (write(back[1], &byte, 1) != 1)
				break;
		_exit(0);
	}
	for (i = 0; i < ROUNDS; i++) {
		uint64_t begin = now();

		must(write(there[1], &byte, 1) == 1);
		must(read(back[0], &byte, 1) == 1);
		ns[i] = now() - begin;
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return show("pipe round trip", ns, ROUNDS);
}

static void samples(int session, uint32_t which, const char *name, double pipe)
{
	static uint32_t raw[CORSA_SAMPLES_KEPT];
	static uint64_t ns[CORSA_SAMPLES_KEPT];
	struct corsa_samples s = { .size = sizeof(s), .which = which,
				   .cap = CORSA_SAMPLES_KEPT,
				   .ns = (uintptr_t)raw };
	struct result r;
	uint32_t i;

	must(!ioctl(session, CORSA_IOC_SAMPLES, &s));
	must(s.count);
	for (i = 0; i < s.count; i++)
		ns[i] = raw[i];
	r = show(name, ns, s.count);
	printf("%-46s %10.3f of a one-way pipe switch\n", "", r.p50 / (pipe / 2));
}

static void record(int session, uint32_t which)
{
	struct corsa_samples s = { .size = sizeof(s), .which = which,
				   .flags = CORSA_SAMPLES_ON };

	must(!ioctl(session, CORSA_IOC_SAMPLES, &s));
}

/* Each answer comes from the instance that was made active just before. */
static void switching(const struct service_options *options, const char *name,
		      double pipe)
{
	static uint64_t activate[ROUNDS], answer[ROUNDS];
	struct service service, own;
	struct reply reply;
	struct result none, with;
	uint32_t other;
	char label[80];
	int session, mode, i;

	must(!service_start(&service, options));
	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	other = must_branch(session, 0);
	own = service;
	own.fd = own_socket(&service, session, other);
	for (i = 0; i < ROUNDS; i++) {
		uint64_t begin = now();

		must(!service_call(&service, CMD_PING, 0, &reply));
		answer[i] = now() - begin;
	}
	snprintf(label, sizeof(label), "%s: request, no switch", name);
	none = show(label, answer, ROUNDS);
	record(session, CORSA_HIST_SWAP);
	for (mode = 0; mode < 2; mode++) {
		for (i = 0; i < ROUNDS; i++) {
			uint64_t begin = now();

			must(!corsa_switch_to(session, i % 2 ? 0 : other,
					      mode ? CORSA_ACTIVATE_LAZY : 0, 0,
					      NULL));
			activate[i] = now() - begin;
			must(!service_call(i % 2 ? &service : &own, CMD_PING,
					   0, &reply));
			answer[i] = now() - begin;
		}
		snprintf(label, sizeof(label), "%s: activate%s", name,
			 mode ? " lazy" : "");
		with = show(label, activate, ROUNDS);
		snprintf(label, sizeof(label), "%s: activate%s and request", name,
			 mode ? " lazy" : "");
		with = show(label, answer, ROUNDS);
		printf("%-46s %10.2f pipe round trips\n", "",
		       (with.p50 - none.p50) / pipe);
	}
	samples(session, CORSA_HIST_SWAP, "  in the kernel, one thread", pipe);
	record(session, CORSA_HIST_SWAP_MM);
	for (i = 0; i < 200; i++)
		must(!corsa_switch_to(session, i % 2 ? 0 : other, 0, 0, NULL));
	samples(session, CORSA_HIST_SWAP_MM, "  of it the mm", pipe);
	close(own.fd);
	close(session);
	service_stop(&service);
}

static void copying(const struct service_options *options, const char *name)
{
	uint64_t total[60], stop[60], dup[60];
	struct service service;
	struct corsa_copy copy;
	struct result r;
	char label[80];
	double fork_us;
	int session, i;

	must(!service_start(&service, options));
	fork_us = call(&service, CMD_TIME_FORK, 30).value / 1000.0;
	printf("%-40s fork  %10.2f us\n", name, fork_us);
	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	for (i = 0; i < 60; i++) {
		uint64_t begin = now();

		must(!corsa_copy_of(session, 0, 1, 0, &copy));
		total[i] = now() - begin;
		stop[i] = copy.ns_stop;
		dup[i] = copy.ns_dup;
		must(!corsa_discard_id(session, copy.id));
		usleep(5000); /* a worker frees it meanwhile */
	}
	snprintf(label, sizeof(label), "%s: stop", name);
	show(label, stop, 60);
	snprintf(label, sizeof(label), "%s: duplicate", name);
	show(label, dup, 60);
	snprintf(label, sizeof(label), "%s: checkpoint", name);
	r = show(label, total, 60);
	printf("%-46s %10.2f of fork()\n", "", r.p50 / fork_us);
	close(session);
	service_stop(&service);
}

static void test_bench(void)
{
	double pipe;
	cpu_set_t first;

	CPU_ZERO(&first);
	CPU_SET(0, &first);
	sched_setaffinity(0, sizeof(first), &first);
	null_call();
	pipe = ping_pong().p50;
	switching(&(struct service_options){ .bare = 1 }, "1 thread", pipe);
	switching(&(struct service_options){ .idle_threads = 0 }, "6 threads", pipe);
	switching(&(struct service_options){ .idle_threads = 39 }, "45 threads", pipe);
	switching(&(struct service_options){ .heap = 128 << 20, .bare = 1 },
		  "1 thread, 128 MiB", pipe);
	switching(&(struct service_options){ .areas = 2000, .bare = 1 },
		  "1 thread, 2000 areas", pipe);
	copying(&(struct service_options){ .heap = 1 << 20, .bare = 1 }, "1 MiB, 1 thread");
	copying(&(struct service_options){ .heap = 1 << 20 }, "1 MiB");
	copying(&(struct service_options){ .heap = 16 << 20 }, "16 MiB");
	copying(&(struct service_options){ .heap = 128 << 20 }, "128 MiB");
	copying(&(struct service_options){ .areas = 2000 }, "2000 areas");
	ping_pong();
}

const struct test bench_tests[] = {
	{ "bench", test_bench, 1 },
	{ 0 },
};
