// SPDX-License-Identifier: GPL-2.0
/* Many apps at once, and processes that are killed at random. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"

#define APPS 16

/* Shared with the apps. */
struct fair {
	const char *device;
	uint32_t total;
	volatile int stop;
	uint32_t done[APPS];
	uint32_t p99_us[APPS];
};

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Calls until all apps together have made enough. */
static int app_fair(uint32_t uid, void *data)
{
	struct fair *fair = data;
	uint32_t n = uid - FIRST_UID, k = 0;
	uint32_t *took = calloc(fair->total, sizeof(*took));
	struct answer answer;
	struct conn conn;
	uint64_t begin;
	int ret;

	client_open(&conn, fair->device, uid);
	while (!fair->stop && k < fair->total) {
		begin = now_us();
		ret = client_step(&conn, uid, ++k, 0, &answer);
		took[k - 1] = now_us() - begin;
		if (ret || answer.steps != k || answer.owner != uid ||
		    answer.wrong || answer.eintr) {
			printf("uid %u, call %u: %x steps %u owner %u wrong %x\n",
			       uid, k, ret, answer.steps, answer.owner,
			       answer.wrong);
			return 1;
		}
		fair->done[n] = k;
	}
	if (k) {
		qsort(took, k, sizeof(*took), by_size);
		fair->p99_us[n] = took[k * 99 / 100];
	}
	return 0;
}

static void fair(const char *name, uint32_t total)
{
	struct binder_service service;
	int session = start_gated(&service, name, CORSA_BINDER_EUID,
				  60000000000ull);
	struct fair *fair = mmap(NULL, sizeof(*fair), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint32_t sum, least, most, low, high;
	struct corsa_binder_stats stats;
	struct corsa_stats all;
	pid_t pids[APPS];
	int i;

	must(fair != MAP_FAILED);
	fair->device = service.device;
	fair->total = total;
	gate_branches(session, APPS, NULL);
	for (i = 0; i < APPS; i++)
		pids[i] = client_fork(FIRST_UID + i, app_fair, fair);
	do {
		usleep(10000);
		for (sum = 0, i = 0; i < APPS; i++)
			sum += fair->done[i];
		for (i = 0; i < APPS; i++)
			if (waitpid(pids[i], NULL, WNOHANG))
				fail(__FILE__, __LINE__, "app %d has ended", i);
	} while (sum < total);
	fair->stop = 1;
	for (i = 0; i < APPS; i++)
		must_equal(client_wait(pids[i]), 0);
	must_be_idle(session);
	gate_stats(session, &stats);
	must(!corsa_stats_of(session, &all));
	printf("a switch takes %llu us, a thread's part of it %llu us\n",
	       (unsigned long long)(all.sum_ns[CORSA_HIST_ACTIVATE] /
				    all.activations / 1000),
	       (unsigned long long)(all.sum_ns[CORSA_HIST_SWAP] / all.swaps /
				    1000));
	least = low = ~0u;
	most = high = 0;
	for (i = 0; i < APPS; i++) {
		least = fair->done[i] < least ? fair->done[i] : least;
		most = fair->done[i] > most ? fair->done[i] : most;
		low = fair->p99_us[i] < low ? fair->p99_us[i] : low;
		high = fair->p99_us[i] > high ? fair->p99_us[i] : high;
	}
	printf("%u calls, %llu switches; calls of an app %u to %u, p99 %u to %u us\n",
	       sum, (unsigned long long)stats.switches, least, most, low, high);
	must_equal(stats.timeouts, 0);
	must(most <= 3 * least);
	binder_service_stop(&service);
}

static void test_sixteen(void)
{
	fair("sixteen", 3000);
}

static void test_hundred_thousand(void)
{
	fair("hundred", 100000);
}

static int app_for_ever(uint32_t uid, void *data)
{
	const char *device = data;
	struct answer answer;
	struct conn conn;
	uint32_t k = 0;
	int ret;

	client_open(&conn, device, uid);
	for (;;) {
		k++;
		if (rand() % 4 == 0)
			ret = client_lend(&conn, CODE_CALLBACK, 1, &answer);
		else if (rand() % 4 == 0)
			ret = client_step(&conn, uid, k, TF_ONE_WAY, NULL);
		else
			ret = client_step(&conn, uid, k, 0, &answer);
		if (ret == BR_DEAD_REPLY)
			return 3;
	}
}

static int __attribute__((noreturn)) app_lend_for_ever(uint32_t uid, void *data)
{
	struct answer answer;
	struct conn conn;

	client_open(&conn, data, uid);
	client_reply_size = CLIENT_REPLY_MAX; /* it takes its time */
	for (;;)
		client_lend(&conn, CODE_CALLBACK, 0, &answer);
}

/*
 * The instance crashes while clients are in the middle of replying to it: the
 * driver must not find its threads without the calls that the replies are to.
 */
static void test_crash_callbacks(void)
{
	struct binder_service service;
	int session = start_gated(&service, "lend", CORSA_BINDER_EUID, 0);
	struct say say = { service.device, CODE_CRASH, 0 };
	struct corsa_binder_stats stats;
	uint32_t id, image;
	pid_t pids[4];
	int i;

	gate_branches(session, 1, &id);
	image = must_image(session, id);
	for (i = 0; i < 4; i++)
		pids[i] = client_fork(FIRST_UID, app_lend_for_ever,
				      (void *)service.device);
	for (i = 0; i < 150; i++) {
		usleep(rand() % 5000);
		client_wait(client_fork(FIRST_UID, app_say, &say));
		must(!corsa_restore_to(session, image, id));
	}
	for (i = 0; i < 4; i++) {
		kill(pids[i], SIGKILL);
		client_wait(pids[i]);
	}
	must_be_idle(session);
	gate_stats(session, &stats);
	printf("%llu calls back, %llu transactions ended\n",
	       (unsigned long long)stats.outgoing,
	       (unsigned long long)stats.aborted);
	must(stats.outgoing && stats.aborted);
	binder_service_stop(&service);
}

/* Kills of clients, crashes, and now and then of the service. */
static void chaos(const char *name, int rounds)
{
	unsigned int seed = time(NULL), kills = 0, crashes = 0, services = 0;
	struct binder_service service;
	struct say say = { NULL, CODE_CRASH, 0 };
	uint32_t ids[4], images[4];
	int session = -1, i, n;
	pid_t pids[4] = { 0 };

	printf("seed %u\n", seed);
	srand(seed);
	for (i = 0; i < rounds; i++) {
		if (session < 0) {
			session = start_gated(&service, name,
					      CORSA_BINDER_EUID, 0);
			gate_branches(session, 4, ids);
			for (n = 0; n < 4; n++)
				images[n] = must_image(session, ids[n]);
			for (n = 0; n < 4; n++)
				pids[n] = client_fork(FIRST_UID + n,
						      app_for_ever,
						      service.device);
			say.device = service.device;
		}
		usleep(rand() % 20000);
		n = rand() % 4;
		switch (rand() % 8) {
		case 0: /* the service */
			kill(service.pid, SIGKILL);
			for (n = 0; n < 4; n++)
				client_wait(pids[n]);
			binder_service_stop(&service);
			close(session);
			session = -1;
			services++;
			break;
		case 1: /* an instance */
			client_wait(client_fork(FIRST_UID + n, app_say, &say));
			must(!corsa_restore_to(session, images[n], ids[n]));
			crashes++;
			break;
		default: /* a client */
			kill(pids[n], SIGKILL);
			client_wait(pids[n]);
			pids[n] = client_fork(FIRST_UID + n, app_for_ever,
					      service.device);
			kills++;
		}
	}
	if (session >= 0) {
		for (n = 0; n < 4; n++) {
			kill(pids[n], SIGKILL);
			client_wait(pids[n]);
		}
		must_be_idle(session);
		binder_service_stop(&service);
	}
	printf("%u clients, %u instances and %u services have died\n", kills,
	       crashes, services);
}

static void test_chaos(void)
{
	chaos("chaos", 100);
}

static void test_long_chaos(void)
{
	chaos("long", 1000);
}

const struct test stress_tests[] = {
	{ "sixteen", test_sixteen },
	{ "chaos", test_chaos },
	{ "crash-callbacks", test_crash_callbacks, 0 },
	{ "hundred-thousand", test_hundred_thousand, 1 },
	{ "long-chaos", test_long_chaos, 1 },
	{ 0 }
};
