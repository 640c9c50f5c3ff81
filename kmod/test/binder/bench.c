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

#define CALLS 400
#define ROUNDS 12

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

enum kind { DIRECT, GATED, SWITCHING, KINDS };

static const char *const names[KINDS] = {
	"direct", "gated, no switch", "gated, switch on each call",
};

static double median(double *values, int count)
{
	qsort(values, count, sizeof(*values), by_size);
	return values[count / 2];
}

/*
 * The kinds take turns, as the machine is not the same from one second to the
 * next; what is compared is the median of all rounds' medians, and the least.
 */
static void test_bench(void)
{
	struct times *times = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double us[KINDS][ROUNDS], p99[KINDS][ROUNDS], middle[KINDS];
	struct binder_service direct, gated;
	struct corsa_binder_stats stats;
	int session, round, kind;
	cpu_set_t cpu;

	must(times != MAP_FAILED);
	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	must(!sched_setaffinity(0, sizeof(cpu), &cpu));
	binder_service_start(&direct, "direct");
	session = start_gated(&gated, "gated", CORSA_BINDER_EUID, 0);
	gate_branches(session, 2, NULL);
	for (round = 0; round < ROUNDS; round++)
		for (kind = 0; kind < KINDS; kind++) {
			times->device = kind == DIRECT ? direct.device :
							 gated.device;
			must_equal(client_wait(client_fork(
					   FIRST_UID,
					   kind == SWITCHING ? app_two :
							       app_alone,
					   times)), 0);
			us[kind][round] = times->median_us;
			p99[kind][round] = times->p99_us;
		}
	gate_stats(session, &stats);
	must(stats.switches >= ROUNDS * (CALLS - 1));
	binder_service_stop(&gated);
	binder_service_stop(&direct);
	for (kind = 0; kind < KINDS; kind++) {
		middle[kind] = median(us[kind], ROUNDS);
		printf("%-27s median %7.1f us (%.2f x), least %7.1f us (%.2f x), p99 %8.1f us\n",
		       names[kind], middle[kind], middle[kind] / middle[DIRECT],
		       us[kind][0], us[kind][0] / us[DIRECT][0],
		       median(p99[kind], ROUNDS));
	}
}

const struct test bench_tests[] = {
	{ "bench", test_bench, 1 },
	{ 0 }
};
