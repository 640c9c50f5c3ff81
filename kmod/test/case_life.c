// SPDX-License-Identifier: GPL-2.0
/* Sessions that outlive their owner; threads and processes that come and go. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

static void test_persist(void)
{
	struct corsa_detach detach = { .size = sizeof(detach) };
	struct service service;
	int session = start_attached(&service, CORSA_ATTACH_PERSIST), second;
	struct corsa_event event;
	struct corsa_list list;
	uint32_t id;

	step(&service, 1);
	id = must_branch(session, 0);
	step(&service, 1);
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	close(session);
	must_be_at(&service, 1);
	step(&service, 5);

	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	second = corsa_attach(dev, service.pidfd, CORSA_ATTACH_PERSIST);
	must(second >= 0);
	must(!corsa_list_all(second, NULL, 0, &list));
	must_equal(list.count, 2);
	must_equal(list.active, id);
	must(!corsa_switch_to(second, 0, 0, 0, NULL));
	must_be_at(&service, 2);
	must(!ioctl(session, CORSA_IOC_DETACH, &detach));
	must_equal(corsa_next_event(second, &event, 1000), 1);
	must_equal(event.type, CORSA_EVENT_DETACHED);
	must_errno(corsa_switch_to(second, id, 0, 0, NULL), ESRCH);
	close(session);
	close(second);
	must_be_at(&service, 2);
	/* And once more from the beginning. */
	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	must_branch(session, 0);
	close(session);
	must_be_at(&service, 2);
	service_stop(&service);
}

static void test_persist_killed(void)
{
	struct service service;
	int session = start_attached(&service, CORSA_ATTACH_PERSIST);

	must_branch(session, 0);
	must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
	close(session);
	/* Parked, nobody in charge: it can still be killed. */
	must_equal(WTERMSIG(service_stop(&service)), SIGKILL);
}

/* A session being prepared lets the process go when its owner dies. */
static void test_persist_later(void)
{
	struct corsa_persist persist = { .size = sizeof(persist) };
	struct service service;
	int session = start_attached(&service, 0);
	struct corsa_list list;

	must_branch(session, 0);
	must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
	close(session);
	must_be_at(&service, 0);

	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	must_branch(session, 0);
	persist.reserved = 1;
	must_errno(ioctl(session, CORSA_IOC_PERSIST, &persist), EINVAL);
	persist.reserved = 0;
	must(!ioctl(session, CORSA_IOC_PERSIST, &persist));
	close(session);
	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	must(!corsa_list_all(session, NULL, 0, &list));
	must_equal(list.count, 2);
	must_be_at(&service, 0);
	service_stop(&service);
	close(session);
}

static void test_threads(void)
{
	struct service service;
	int session = start_attached(&service, 0);
	struct corsa_event event;
	uint32_t id;

	id = must_branch(session, 0);
	must_equal(call(&service, CMD_THREAD_NEW, 0).threads, 1);
	must_equal(call(&service, CMD_THREAD_NEW, 0).threads, 2);
	must_equal(corsa_next_event(session, &event, 1000), 1);
	must_equal(event.type, CORSA_EVENT_THREAD_NEW);
	must_equal(event.id, 0);
	/* They wait outside while an older instance runs. */
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	must_be_at(&service, 0);
	step(&service, 2);
	must_equal(call(&service, CMD_THREAD_NEW, 0).threads, 1);
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	must_equal(call(&service, CMD_LOOK, 0).threads, 2);
	must_be_at(&service, 0);
	/* Detach where one of them does not exist: it ends. */
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	close(session);
	must_be_at(&service, 2);
	must_equal(call(&service, CMD_THREAD_EXIT, 0).value, 0);
	service_stop(&service);
}

static void test_thread_exit(void)
{
	struct service service;
	int session, round;
	struct corsa_stats stats;
	uint32_t id, image;

	session = start_attached(&service, 0);
	call(&service, CMD_THREAD_NEW, 0);
	id = must_branch(session, 0);
	image = must_image(session, 0);
	for (round = 0; round < 3; round++) {
		/* Ends and is joined here... */
		must_equal(call(&service, CMD_THREAD_EXIT, 0).value, 0);
		must_equal(call(&service, CMD_LOOK, 0).threads, 0);
		must(!corsa_stats_of(session, &stats));
		must_equal(stats.threads_held, 2 * round + 1);
		/* ... and lives and ends there. */
		must(!corsa_switch_to(session, id, 0, 0, NULL));
		must_equal(call(&service, CMD_LOOK, 0).threads, 1);
		must_equal(call(&service, CMD_THREAD_EXIT, 0).value, 0);
		/* A branch made now does not have it. */
		must(!corsa_restore_to(session, image, id));
		must_equal(call(&service, CMD_LOOK, 0).threads, 1);
		must(!corsa_switch_to(session, 0, 0, 0, NULL));
		must_equal(call(&service, CMD_LOOK, 0).threads, 0);
		must(!corsa_restore_to(session, image, 0));
		must_equal(call(&service, CMD_LOOK, 0).threads, 1);
	}
	must_equal(call(&service, CMD_THREAD_EXIT, 0).value, 0);
	/* Nobody has it any more: it ends for good. */
	must(!corsa_discard_id(session, id));
	must(!corsa_discard_id(session, image));
	for (round = 0; round < 200; round++) {
		must(!corsa_stats_of(session, &stats));
		if (stats.threads == 6)
			break;
		usleep(10000);
	}
	must_equal(stats.threads, 6);
	close(session);
	must_be_at(&service, 0);
	service_stop(&service);
}

static void test_fork(void)
{
	struct service service;
	int session = start_attached(&service, 0), i;
	uint32_t id;

	must_equal(call(&service, CMD_FORK, 3).value, 3);
	must_equal(call(&service, CMD_SPAWN, 4).value, 4);
	id = must_branch(session, 0);
	for (i = 0; i < 10; i++) {
		must(!corsa_switch_to(session, i % 2 ? 0 : id, 0, 0, NULL));
		must_equal(call(&service, CMD_FORK, i).value, i);
		must_equal(call(&service, CMD_SPAWN, i).value, i);
	}
	close(session);
	service_stop(&service);
}

static void test_exec(void)
{
	struct request request = { .command = CMD_EXEC };
	struct service service;
	int session = start_attached(&service, CORSA_ATTACH_PERSIST);
	struct corsa_event event;

	must_branch(session, 0);
	must_equal(send(service.fd, &request, sizeof(request), 0),
		   sizeof(request));
	must_equal(corsa_next_event(session, &event, 10000), 1);
	must_equal(event.type, CORSA_EVENT_EXEC);
	must_equal(corsa_next_event(session, &event, 10000), 0);
	must_errno(corsa_switch_to(session, 0, 0, 0, NULL), ESRCH);
	close(session);
	/* It is an ordinary process now, and can be attached as one. */
	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	must_branch(session, 0);
	close(session);
	must_equal(WTERMSIG(service_stop(&service)), SIGKILL);
}

static void test_killed(void)
{
	struct service service;
	int session = start_attached(&service, 0);
	struct corsa_event event;
	uint32_t id;

	id = must_branch(session, 0);
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	must(!kill(service.pid, SIGKILL));
	must_equal(corsa_next_event(session, &event, 10000), 1);
	must_equal(event.type, CORSA_EVENT_EXITED);
	must_errno(corsa_copy_of(session, 0, 0, 0, NULL), ESRCH);
	service_stop(&service);
	close(session);
}

const struct test life_tests[] = {
	{ "persist", test_persist },
	{ "persist-killed", test_persist_killed },
	{ "persist-later", test_persist_later },
	{ "threads", test_threads },
	{ "thread-exit", test_thread_exit },
	{ "fork", test_fork },
	{ "exec", test_exec },
	{ "killed", test_killed },
	{ 0 },
};
