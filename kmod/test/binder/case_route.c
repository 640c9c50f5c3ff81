// SPDX-License-Identifier: GPL-2.0
/* Every app has its own service, whoever else calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

int app_steps(uint32_t uid, void *data)
{
	struct steps *steps = data;
	struct answer answer;
	struct conn conn;
	uint32_t k;
	int ret;

	client_open(&conn, steps->device, uid);
	for (k = 1; k <= steps->count; k++) {
		ret = client_step(&conn, uid, k, 0, &answer);
		if (ret || answer.steps != steps->done + k ||
		    answer.owner != uid || answer.wrong || answer.eintr) {
			printf("uid %u, call %u: %x steps %u owner %u wrong %x eintr %u\n",
			       uid, k, ret, answer.steps, answer.owner,
			       answer.wrong, answer.eintr);
			return 1;
		}
	}
	return 0;
}

static void test_two(void)
{
	struct binder_service service;
	int session = start_gated(&service, "two", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 50, 0 };
	struct corsa_binder_stats stats;

	gate_branches(session, 2, NULL);
	must_equal(client_wait(client_fork(FIRST_UID, app_steps, &steps)), 0);
	must_equal(client_wait(client_fork(FIRST_UID + 1, app_steps, &steps)), 0);
	steps.done = 50;
	must_equal(client_wait(client_fork(FIRST_UID, app_steps, &steps)), 0);
	must_be_idle(session);
	gate_stats(session, &stats);
	must_equal(stats.transactions, 150);
	must_equal(stats.switches, 3);
	binder_service_stop(&service);
}

static void test_three_at_once(void)
{
	struct binder_service service;
	int session = start_gated(&service, "three", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 300, 0 };
	struct corsa_binder_stats stats;

	gate_branches(session, 3, NULL);
	must_equal(clients_run(3, app_steps, &steps), 0);
	must_be_idle(session);
	gate_stats(session, &stats);
	printf("%llu switches in %llu calls, longest wait %llu us\n",
	       (unsigned long long)stats.switches,
	       (unsigned long long)stats.transactions,
	       (unsigned long long)stats.longest_wait_ns / 1000);
	must(stats.switches > 3);
	binder_service_stop(&service);
}

static void test_wanted(void)
{
	struct binder_service service;
	int session = start_gated(&service, "wanted", CORSA_BINDER_EUID,
				  300000000);
	struct steps steps = { service.device, 5, 0 };
	struct corsa_event event;
	uint64_t begin;
	pid_t pid;

	pid = client_fork(FIRST_UID, app_steps, &steps);
	must_equal(corsa_next_event(session, &event, 2000), 1);
	must_equal(event.type, CORSA_EVENT_BINDER_WANTED);
	must_equal(event.addr, FIRST_UID);
	must_equal(event.id, CORSA_NONE);
	must_equal(event.tid, pid);
	must(!gate_route(session, FIRST_UID, must_branch(session, 0), 0, 0));
	must_equal(client_wait(pid), 0);

	/* Nobody cares about the next one. */
	begin = now_ms();
	must(client_wait(client_fork(FIRST_UID + 1, app_steps, &steps)));
	must(now_ms() - begin >= 300);
	must_be_idle(session);
	steps.done = 5;
	must_equal(client_wait(client_fork(FIRST_UID, app_steps, &steps)), 0);
	binder_service_stop(&service);
}

/* It has no service, and hears of that at once. */
static void test_turned_away(void)
{
	struct binder_service service;
	int session = start_gated(&service, "away", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 5, 0 };
	struct corsa_binder_stats stats;
	struct corsa_event event;
	uint64_t begin = now_ms();
	pid_t pid;
	int i;

	for (i = 0; i < 2; i++) {
		pid = client_fork(FIRST_UID, app_steps, &steps);
		must_equal(corsa_next_event(session, &event, 2000), 1);
		must_equal(event.type, CORSA_EVENT_BINDER_WANTED);
		must(!gate_route(session, FIRST_UID, CORSA_NONE, 0, 0));
		must(client_wait(pid));
	}
	must(now_ms() - begin < 5000); /* what it would have waited once */
	gate_stats(session, &stats);
	must_equal(stats.timeouts, 0);
	must_be_idle(session);
	pid = client_fork(FIRST_UID, app_steps, &steps);
	must_equal(corsa_next_event(session, &event, 2000), 1);
	must(!gate_route(session, FIRST_UID, must_branch(session, 0), 0, 0));
	must_equal(client_wait(pid), 0);
	binder_service_stop(&service);
}

static int app_one_step(uint32_t uid, void *data)
{
	struct steps *steps = data;
	struct answer answer;
	struct conn conn;

	client_open(&conn, steps->device, uid);
	if (client_step(&conn, uid, 1, 0, &answer))
		return 1;
	return answer.steps == 1 && !answer.wrong ? 0 : 2;
}

static void test_by_pid(void)
{
	struct binder_service service;
	int session = start_gated(&service, "pid", CORSA_BINDER_PID, 0);
	struct steps steps = { service.device };
	struct corsa_event event;
	pid_t pids[3];
	int i;

	for (i = 0; i < 3; i++)
		pids[i] = client_fork(0, app_one_step, &steps);
	for (i = 0; i < 3; i++) {
		must_equal(corsa_next_event(session, &event, 2000), 1);
		must_equal(event.type, CORSA_EVENT_BINDER_WANTED);
		must_equal(event.addr, event.tid);
		must(!gate_route(session, event.addr, must_branch(session, 0),
				 0, 0));
	}
	for (i = 0; i < 3; i++)
		must_equal(client_wait(pids[i]), 0);
	binder_service_stop(&service);
}

static void test_due(void)
{
	struct binder_service service;
	int session = start_gated(&service, "due", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 30, 0 };
	uint32_t id = must_branch(session, 0);
	struct corsa_event event;
	int due = 0;
	pid_t pid;

	/* As for a checkpoint after every tenth transaction. */
	must(!gate_route(session, FIRST_UID, id, CORSA_ROUTE_PAUSE, 10));
	pid = client_fork(FIRST_UID, app_steps, &steps);
	while (due < 3) {
		must_equal(corsa_next_event(session, &event, 5000), 1);
		must_equal(event.type, CORSA_EVENT_BINDER_DUE);
		must_equal(event.addr, FIRST_UID);
		must_equal(event.code, 10);
		must_image(session, id);
		due++;
		must(!gate_route(session, FIRST_UID, id, CORSA_ROUTE_PAUSE, 10));
	}
	must_equal(client_wait(pid), 0);
	binder_service_stop(&service);
}

static void test_refusals(void)
{
	struct binder_service service;
	struct corsa_binder_enable e;
	struct corsa_copy copy;
	uint32_t image;
	int session;

	binder_service_start(&service, "refusals");
	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	must_errno(corsa_copy_of(session, 0, 0, 0, &copy), EOPNOTSUPP);
	must_errno(gate_route(session, 1, 0, 0, 0), ENXIO);
	must_errno(gate_enable(session, 9, 0, 0, NULL), EINVAL);
	must_errno(gate_enable(session, 0, 0, 0, NULL), EINVAL);
	must_errno(gate_enable(session, CORSA_BINDER_PID, CORSA_BINDER_ORIGIN,
			       0, NULL), EINVAL);
	must(!gate_enable(session, CORSA_BINDER_EUID, CORSA_BINDER_ORIGIN, 0,
			  &e));
	must_errno(gate_enable(session, CORSA_BINDER_EUID, 0, 0, NULL),
		   EALREADY);
	image = must_image(session, 0);
	must_errno(gate_route(session, 1, image, 0, 0), EINVAL);
	must_errno(gate_route(session, 1, 99, 0, 0), ENOENT);
	must_errno(gate_route(session, 1, 0, 2, 0), EINVAL);
	binder_service_stop(&service);
}

/* The driver's own place for a gate is used where there is one. */
static void test_hook(void)
{
	FILE *symbols = fopen("/proc/kallsyms", "r");
	struct corsa_binder_enable enabled;
	struct binder_service service;
	int session, own = 0;
	char line[512];

	must(symbols);
	while (fgets(line, sizeof(line), symbols))
		own |= strstr(line, " binder_set_gate\t") != NULL;
	fclose(symbols);
	binder_service_start(&service, "hook");
	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	must(!gate_enable(session, CORSA_BINDER_EUID, 0, 0, &enabled));
	must_equal(enabled.hook,
		   own ? CORSA_BINDER_DRIVER : CORSA_BINDER_KPROBE);
	binder_service_stop(&service);
}

const struct test route_tests[] = {
	{ "hook", test_hook },
	{ "two", test_two },
	{ "three-at-once", test_three_at_once },
	{ "wanted", test_wanted },
	{ "turned-away", test_turned_away },
	{ "by-pid", test_by_pid },
	{ "due", test_due },
	{ "refusals", test_refusals },
	{ 0 }
};
