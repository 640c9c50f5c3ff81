// SPDX-License-Identifier: GPL-2.0
/* What the gate costs, as ratios to the same calls without it. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"

#define CALLS 3000

struct times {
	const char *device;
	double median_us;
	double p99_us;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void summarise(struct times *times, double *us, int count)
{
	qsort(us, count, sizeof(*us), by_size);
	times->median_us = us[count / 2];
	times->p99_us = us[count * 99 / 100];
}

/* One app alone. */
static int app_alone(uint32_t uid, void *data)
{
	static double us[CALLS];
	struct times *times = data;
	struct conn conn;
	uint64_t begin;
	int i;

	client_open(&conn, times->device, uid);
	for (i = 0; i < CALLS; i++) {
		begin = now_ns();
		if (client_say(&conn, CODE_NAP, 0, NULL))
			return 1;
		us[i] = (now_ns() - begin) / 1e3;
	}
	summarise(times, us, CALLS);
	return 0;
}

/*
 * Two apps in one process, so that nothing but the instance changes between
 * their calls: the driver takes the effective uid of the process.
 */
static int app_two(uint32_t uid, void *data)
{
	static double us[CALLS];
	struct times *times = data;
	struct conn conn;
	uint64_t begin;
	int i;

	client_open(&conn, times->device, 0);
	for (i = 0; i < CALLS; i++) {
		must(!setresuid(-1, FIRST_UID + i % 2, 0));
		begin = now_ns();
		if (client_say(&conn, CODE_NAP, 0, NULL))
			return 1;
		us[i] = (now_ns() - begin) / 1e3;
		must(!setresuid(-1, 0, 0));
	}
	summarise(times, us, CALLS);
	return 0;
}

static void print(const char *what, const struct times *t, double base)
{
	printf("%-28s median %8.1f us  p99 %8.1f us  %.2f x\n", what,
	       t->median_us, t->p99_us, t->median_us / base);
}

static void measure(app run, struct times *times)
{
	must_equal(client_wait(client_fork(FIRST_UID, run, times)), 0);
}

static void test_bench(void)
{
	struct times *t = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct binder_service service;
	struct corsa_binder_stats stats;
	cpu_set_t cpu;
	int session;

	must(t != MAP_FAILED);
	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	must(!sched_setaffinity(0, sizeof(cpu), &cpu));
	binder_service_start(&service, "bench");
	t[0].device = t[1].device = t[2].device = t[3].device = service.device;
	measure(app_alone, &t[0]);
	binder_service_stop(&service);

	session = start_gated(&service, "bench", CORSA_BINDER_EUID, 0);
	gate_branches(session, 2, NULL);
	measure(app_alone, &t[1]);
	measure(app_two, &t[2]);
	gate_stats(session, &stats);
	must(stats.switches >= CALLS - 1);
	binder_service_stop(&service);

	binder_service_start(&service, "bench");
	measure(app_alone, &t[3]);
	binder_service_stop(&service);
	print("direct", &t[0], t[0].median_us);
	print("direct, once more", &t[3], t[0].median_us);
	print("gated, no switch", &t[1], t[0].median_us);
	print("gated, switch on each call", &t[2], t[0].median_us);
}

const struct test bench_tests[] = {
	{ "bench", test_bench, 1 },
	{ 0 }
};
