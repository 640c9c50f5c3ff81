// SPDX-License-Identifier: GPL-2.0
/* Calls that are not just there and back. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

static int app_callback(uint32_t uid, void *data)
{
	struct steps *steps = data;
	struct answer answer;
	struct conn conn;
	uint32_t k;

	client_open(&conn, steps->device, uid);
	for (k = 1; k <= steps->count; k++) {
		if (client_lend(&conn, CODE_CALLBACK, 1, &answer))
			return 1;
		/* The nested call and the call itself; a oneway each. */
		if (client_called != k || answer.steps != 2 * k ||
		    answer.owner != uid || answer.wrong) {
			printf("uid %u: call %u, called %u, steps %u, wrong %x\n",
			       uid, k, client_called, answer.steps, answer.wrong);
			return 2;
		}
	}
	return 0;
}

static void test_callbacks(void)
{
	struct binder_service service;
	int session = start_gated(&service, "callbacks", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 40 };
	struct corsa_binder_stats stats;

	gate_branches(session, 3, NULL);
	must_equal(clients_run(3, app_callback, &steps), 0);
	must_be_idle(session);
	gate_stats(session, &stats);
	must_equal(stats.nested, 120);
	must_equal(stats.oneway, 120);
	must_equal(stats.outgoing, 120);
	must_equal(stats.timeouts, 0);
	binder_service_stop(&service);
}

/*
 * The service calls back when it is not being called. What an instance does on
 * its own goes on only while it is active: so the app keeps it so.
 */
static int app_alone(uint32_t uid, void *data)
{
	struct steps *steps = data;
	struct answer answer;
	struct conn conn;
	uint32_t k;

	client_open(&conn, steps->device, uid);
	for (k = 1; k <= steps->count; k++) {
		if (client_lend(&conn, CODE_CALL_ALONE, 0, &answer))
			return 1;
		while (!client_is_called(&conn, 20))
			if (client_say(&conn, CODE_NAP, 1, &answer))
				return 2;
		if (client_be_called(&conn) ||
		    client_say(&conn, CODE_NAP, 0, &answer))
			return 2;
		if (answer.wrong || answer.owner != uid) {
			printf("uid %u: call %u, called %u, owner %u, wrong %x\n",
			       uid, k, client_called, answer.owner,
			       answer.wrong);
			return 3;
		}
	}
	return client_called == steps->count ? 0 : 4;
}

static void test_alone(void)
{
	struct binder_service service;
	int session = start_gated(&service, "alone", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 20 };

	gate_branches(session, 3, NULL);
	must_equal(clients_run(3, app_alone, &steps), 0);
	must_be_idle(session);
	binder_service_stop(&service);
}

static int app_flood(uint32_t uid, void *data)
{
	struct steps *steps = data;
	struct answer answer;
	struct conn conn;
	uint32_t k, i;

	client_open(&conn, steps->device, uid);
	for (k = 1; k <= steps->count; k++)
		if (client_step(&conn, uid, k, TF_ONE_WAY, NULL))
			return 1;
	for (i = 0; i < 1000; i++) {
		if (client_step(&conn, uid, k, 0, &answer))
			return 2;
		if (answer.oneways == steps->count)
			break;
	}
	return answer.oneways == steps->count && !answer.wrong &&
	       answer.owner == uid ? 0 : 3;
}

static void test_oneway_flood(void)
{
	struct binder_service service;
	int session = start_gated(&service, "flood", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 200 };
	struct corsa_binder_stats stats;

	gate_branches(session, 3, NULL);
	must_equal(clients_run(3, app_flood, &steps), 0);
	must_be_idle(session);
	gate_stats(session, &stats);
	must_equal(stats.oneway, 600);
	binder_service_stop(&service);
}

/* Each app's object is at the same address, and is another. */
static int app_object(uint32_t uid, void *data)
{
	struct steps *steps = data;
	uint32_t k, handle, calls = 0, i;
	struct answer answer;
	struct conn conn;

	client_open(&conn, steps->device, uid);
	for (k = 1; k <= steps->count; k++) {
		handle = client_get(&conn, &answer);
		if (!handle)
			return 1;
		for (i = 1; i <= 5; i++) {
			if (client_step_on(&conn, handle, uid, i, &answer))
				return 2;
			calls++;
			if (answer.object != calls || answer.wrong ||
			    answer.owner != uid ||
			    answer.steps != k + calls) {
				printf("uid %u: call %u of object: %u, owner %u, wrong %x, steps %u\n",
				       uid, calls, answer.object, answer.owner,
				       answer.wrong, answer.steps);
				return 3;
			}
		}
		conn_release(&conn, handle);
		conn_flush(&conn);
	}
	return 0;
}

static void test_objects(void)
{
	struct binder_service service;
	int session = start_gated(&service, "objects", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 20 };

	gate_branches(session, 3, NULL);
	must_equal(clients_run(3, app_object, &steps), 0);
	must_be_idle(session);
	/* The driver has them all again. */
	close(session);
	steps.count = 0;
	must_equal(clients_run(3, app_object, &steps), 0);
	binder_service_stop(&service);
}

/* What an instance has made after a checkpoint is not there after a restore. */
static int app_stale(uint32_t uid, void *data)
{
	struct say *say = data;
	struct answer answer;
	struct conn conn;
	uint32_t handle;

	client_open(&conn, say->device, uid);
	handle = client_get(&conn, &answer);
	if (!handle || client_step_on(&conn, handle, uid, 1, &answer))
		return 1;
	/* The test restores the instance when it is told to. */
	raise(SIGSTOP);
	if (client_step_on(&conn, handle, uid, 2, &answer) != BR_DEAD_REPLY)
		return 2;
	if (client_step(&conn, uid, 1, 0, &answer) || answer.steps != 1)
		return 3;
	/* And it may make one anew. */
	handle = client_get(&conn, &answer);
	return handle && !client_step_on(&conn, handle, uid, 3, &answer) &&
	       !answer.wrong ? 0 : 4;
}

static void test_stale_object(void)
{
	struct binder_service service;
	int session = start_gated(&service, "stale", CORSA_BINDER_EUID, 0);
	struct say say = { service.device };
	uint32_t id, image;
	int status;
	pid_t pid;

	gate_branches(session, 1, &id);
	image = must_image(session, id);
	pid = client_fork(FIRST_UID, app_stale, &say);
	must(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
	must(!corsa_restore_to(session, image, id));
	kill(pid, SIGCONT);
	must_equal(client_wait(pid), 0);
	must_be_idle(session);
	binder_service_stop(&service);
}

/* Images and restores of an instance in use. */
static void test_checkpoints(void)
{
	struct binder_service service;
	int session = start_gated(&service, "checkpoints", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 100, 0 };
	struct corsa_copy copy;
	uint32_t ids[2], image;
	pid_t other, busy;
	int i;

	gate_branches(session, 2, ids);
	must_equal(client_wait(client_fork(FIRST_UID, app_steps, &steps)), 0);
	image = must_image(session, ids[0]);
	other = client_fork(FIRST_UID + 1, app_steps, &steps);
	steps.done = 100;
	busy = client_fork(FIRST_UID, app_steps, &steps);
	for (i = 0; i < 5; i++) {
		must(!corsa_copy_of(session, ids[i % 2], 1, 0, &copy));
		must(!corsa_discard_id(session, copy.id));
		usleep(20000);
	}
	must_equal(client_wait(other), 0);
	must_equal(client_wait(busy), 0);
	for (i = 0; i < 3; i++) {
		must(!corsa_restore_to(session, image, ids[0]));
		must_equal(client_wait(client_fork(FIRST_UID, app_steps, &steps)),
			   0);
	}
	must_be_idle(session);
	binder_service_stop(&service);
}

static void drop_buffers(void)
{
	FILE *file = fopen("/proc/sys/vm/drop_caches", "w");

	must(file);
	fputs("2", file);
	must(!fclose(file));
}

/* The driver takes pages of buffers away: so must the instances. */
static void test_pages_taken(void)
{
	struct binder_service service;
	int session = start_gated(&service, "pages", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 400, 0 };
	struct corsa_binder_stats before, after;
	pid_t pids[2];
	int i;

	gate_branches(session, 2, NULL);
	for (i = 0; i < 2; i++)
		pids[i] = client_fork(FIRST_UID + i, app_steps, &steps);
	gate_stats(session, &before);
	for (i = 0; i < 30; i++) {
		usleep(10000);
		drop_buffers();
	}
	for (i = 0; i < 2; i++)
		must_equal(client_wait(pids[i]), 0);
	gate_stats(session, &after);
	/* A few for each instance would do if nothing was taken. */
	must(after.buffer_faults > before.buffer_faults + 8);
	binder_service_stop(&service);
}

/* The process goes on without the gate, in an instance, with its buffers. */
static void test_detach(void)
{
	struct binder_service service;
	int session = start_gated(&service, "detach", CORSA_BINDER_EUID, 0);
	struct steps steps = { service.device, 20, 0 };

	gate_branches(session, 2, NULL);
	must_equal(clients_run(2, app_steps, &steps), 0);
	must_equal(client_wait(client_fork(FIRST_UID + 1, app_steps,
					   &(struct steps){ service.device, 5,
							    20 })), 0);
	close(session);
	usleep(100000);
	steps.done = 25;
	must_equal(client_wait(client_fork(FIRST_UID + 1, app_steps, &steps)), 0);
	drop_buffers();
	steps.done = 45;
	must_equal(client_wait(client_fork(FIRST_UID + 1, app_steps, &steps)), 0);
	binder_service_stop(&service);
}

const struct test call_tests[] = {
	{ "callbacks", test_callbacks },
	{ "alone", test_alone },
	{ "oneway-flood", test_oneway_flood },
	{ "objects", test_objects },
	{ "stale-object", test_stale_object },
	{ "checkpoints", test_checkpoints },
	{ "pages-taken", test_pages_taken },
	{ "detach", test_detach },
	{ 0 }
};
