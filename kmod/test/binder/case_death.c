// SPDX-License-Identifier: GPL-2.0
/* Whatever dies, whenever: the others go on. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

int app_say(uint32_t uid, void *data)
{
	struct say *say = data;
	struct answer answer;
	struct conn conn;
	int ret;

	client_open(&conn, say->device, uid);
	ret = client_say(&conn, say->code, say->value, &answer);
	return ret == BR_FAILED_REPLY ? 2 : ret == BR_DEAD_REPLY ? 3 : ret != 0;
}

static int exit_code(pid_t pid)
{
	int status = client_wait(pid);

	must(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* The other one's calls go on during and after, and the crashed app comes back. */
static void crash(const char *name, uint32_t code)
{
	struct binder_service service;
	int session = start_gated(&service, name, CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 20, 0 };
	struct say say = { service.device, code, 0 };
	struct corsa_event event;
	uint32_t ids[2], image, i;
	int ret;
	pid_t other;

	gate_branches(session, 2, ids);
	must_equal(client_wait(client_fork(FIRST_UID, app_steps, &steps)), 0);
	image = must_image(session, ids[0]);
	for (i = 0; i < 5; i++) {
		steps.done = i * 20;
		other = client_fork(FIRST_UID + 1, app_steps, &steps);
		ret = exit_code(client_fork(FIRST_UID, app_say, &say));
		must(ret == 2 || ret == 3);
		must_equal(client_wait(other), 0);
		do
			must_equal(corsa_next_event(session, &event, 2000), 1);
		while (event.type != CORSA_EVENT_CRASHED);
		must_equal(event.id, ids[0]);
		must(!corsa_restore_to(session, image, ids[0]));
		must_be_idle(session);
		steps.done = 20;
		must_equal(client_wait(client_fork(FIRST_UID, app_steps, &steps)),
			   0);
		must(!corsa_restore_to(session, image, ids[0]));
	}
	binder_service_stop(&service);
}

static void test_crash(void)
{
	crash("crash", CODE_CRASH);
}

static void test_exit(void)
{
	crash("exit", CODE_EXIT);
}

/* Calls wait for the restore; their order is kept. */
static void test_wait_for_restore(void)
{
	struct binder_service service;
	int session = start_gated(&service, "restore", CORSA_BINDER_EUID, 0);
	struct say say = { service.device, CODE_CRASH, 0 };
	struct steps steps = { service.device, 10, 0 };
	struct corsa_event event;
	uint32_t id, image;
	pid_t pid;
	int ret;

	gate_branches(session, 1, &id);
	image = must_image(session, id);
	ret = exit_code(client_fork(FIRST_UID, app_say, &say));
	must(ret == 2 || ret == 3);
	must_equal(corsa_next_event(session, &event, 2000), 1);
	must_equal(event.type, CORSA_EVENT_CRASHED);
	pid = client_fork(FIRST_UID, app_steps, &steps);
	must_equal(corsa_next_event(session, &event, 2000), 1);
	must_equal(event.type, CORSA_EVENT_BINDER_WANTED);
	must_equal(event.id, id);
	must(!corsa_restore_to(session, image, id));
	must_equal(client_wait(pid), 0);
	binder_service_stop(&service);
}

/* Within a call, or waiting for its turn. */
static void test_client_killed(void)
{
	struct binder_service service;
	int session = start_gated(&service, "clientkill", CORSA_BINDER_EUID, 0);
	struct say say = { service.device, CODE_NAP, 100 };
	pid_t first, second;
	int i;

	gate_branches(session, 3, NULL);
	for (i = 0; i < 5; i++) {
		first = client_fork(FIRST_UID, app_say, &say);
		usleep(20000);
		second = client_fork(FIRST_UID + 1, app_say, &say);
		usleep(20000);
		kill(i % 2 ? first : second, SIGKILL);
		must_equal(exit_code(client_fork(FIRST_UID + 2, app_say, &say)),
			   0);
		client_wait(first);
		client_wait(second);
	}
	must_be_idle(session);
	binder_service_stop(&service);
}

/* All that call or wait are told. */
static void test_service_killed(void)
{
	struct binder_service service;
	int session = start_gated(&service, "servicekill", CORSA_BINDER_EUID, 0);
	struct say say = { service.device, CODE_NAP, 60000 };
	pid_t pids[4];
	int i;

	gate_branches(session, 3, NULL); /* the fourth has no route */
	for (i = 0; i < 4; i++)
		pids[i] = client_fork(FIRST_UID + i, app_say, &say);
	usleep(200000);
	kill(service.pid, SIGKILL);
	for (i = 0; i < 4; i++)
		must_equal(exit_code(pids[i]), 3);
	binder_service_stop(&service);
	close(session);
}

static void test_detach_in_calls(void)
{
	struct binder_service service;
	int session = start_gated(&service, "detachcalls", CORSA_BINDER_EUID, 0);
	struct say say = { service.device, CODE_NAP, 200 };
	pid_t pids[3];
	int i;

	gate_branches(session, 3, NULL);
	for (i = 0; i < 3; i++)
		pids[i] = client_fork(FIRST_UID + i, app_say, &say);
	usleep(100000);
	close(session);
	for (i = 0; i < 3; i++)
		must_equal(exit_code(pids[i]), 0);
	binder_service_stop(&service);
}

const struct test death_tests[] = {
	{ "crash", test_crash },
	{ "exit", test_exit },
	{ "wait-for-restore", test_wait_for_restore },
	{ "client-killed", test_client_killed },
	{ "service-killed", test_service_killed },
	{ "detach-in-calls", test_detach_in_calls },
	{ 0 }
};
