// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

/* Sends a command to which there is no answer. */
static void order(struct service *service, uint32_t command, uint64_t arg)
{
	struct request request = { .command = command, .arg = arg };

	must_equal(send(service->fd, &request, sizeof(request), MSG_NOSIGNAL),
		   sizeof(request));
}

static struct corsa_event crash_event(int session)
{
	struct corsa_event event;

	do
		must_equal(corsa_next_event(session, &event, 10000), 1);
	while (event.type == CORSA_EVENT_THREAD_NEW);
	must_equal(event.type, CORSA_EVENT_CRASHED);
	return event;
}

static const struct cause {
	uint32_t command;
	uint64_t arg;
	int signo;
	int code;	/* -1: any */
	uint64_t addr;
} causes[] = {
	{ CMD_SEGV, 0x10, SIGSEGV, SEGV_MAPERR, 0x10 },
	{ CMD_JUMP, 0xdead000, SIGSEGV, SEGV_MAPERR, 0xdead000 },
	{ CMD_ABORT, 0, SIGABRT, -1, 0 },
	{ CMD_WORKER_SEGV, 0x18, SIGSEGV, SEGV_MAPERR, 0x18 },
	{ CMD_EXIT, 42, 0, 42, 0 },
};

#define CAUSES (sizeof(causes) / sizeof(causes[0]))

static void must_match(const struct corsa_event *event, const struct cause *cause)
{
	must_equal(event->signo, cause->signo);
	if (cause->code >= 0)
		must_equal(event->code, cause->code);
	must_equal(event->addr, cause->addr);
}

/* Crash, restore, go on; twice through, as the second time breaks first. */
static void test_crash_park(void)
{
	struct corsa_record_info records[3];
	struct service service;
	int session = start_attached(&service, 0);
	struct corsa_event event;
	struct corsa_list list;
	uint32_t image, other;
	size_t i;

	step(&service, 2);
	image = must_image(session, 0);
	other = must_branch(session, 0);
	for (i = 0; i < 2 * CAUSES; i++) {
		step(&service, 1);
		order(&service, causes[i % CAUSES].command, causes[i % CAUSES].arg);
		event = crash_event(session);
		must_equal(event.id, 0);
		must_equal(event.next, CORSA_NONE);
		must_match(&event, &causes[i % CAUSES]);
		must(!corsa_list_all(session, records, 3, &list));
		must_equal(list.active, CORSA_NONE);
		must_equal(records[0].flags, CORSA_RECORD_CRASHED);
		must_equal(records[0].signo, event.signo);
		must_errno(corsa_switch_to(session, 0, 0, 0, NULL), EINVAL);
		must_errno(corsa_copy_of(session, 0, 0, 0, NULL), EINVAL);
		/* The others are unharmed. */
		must(!corsa_switch_to(session, other, 0, 0, NULL));
		must_be_at(&service, 2 + i);
		step(&service, 1);
		must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
		must(!corsa_restore_to(session, image, 0));
		must(!corsa_switch_to(session, 0, 0, 0, NULL));
		must_be_at(&service, 2);
	}
	close(session);
	must_be_at(&service, 2);
	service_stop(&service);
}

static void test_crash_standby(void)
{
	struct service service;
	int session = start_attached(&service, 0), i;
	struct corsa_event event;
	uint32_t image, standby;

	step(&service, 2);
	image = must_image(session, 0);
	must_errno(corsa_crash_policy(session, CORSA_CRASH_STANDBY, image, 0, 0),
		   EINVAL);
	must_errno(corsa_crash_policy(session, CORSA_CRASH_STANDBY, 0, 0, 0),
		   EINVAL);
	for (i = 0; i < 3; i++) {
		standby = must_branch(session, image);
		must(!corsa_crash_policy(session, CORSA_CRASH_STANDBY, standby,
					 2, 60000));
		must_errno(corsa_discard_id(session, standby), EBUSY);
		step(&service, 1);
		order(&service, CMD_SEGV, 0x10);
		event = crash_event(session);
		if (i == 2)
			break;
		must_equal(event.next, standby);
		must_be_at(&service, 2);
		must(!corsa_discard_id(session, event.id));
	}
	/* The third within the window: the standby is left alone. */
	must_equal(event.next, CORSA_NONE);
	must_be_silent(&service, 200);
	must(!corsa_switch_to(session, standby, 0, 0, NULL));
	must_equal(late_answer(&service).steps, 2);
	close(session);
	service_stop(&service);
}

static void test_crash_pass(void)
{
	struct service service;
	int session = start_attached(&service, 0);
	struct corsa_event event;

	must(!corsa_crash_policy(session, CORSA_CRASH_PASS, CORSA_NONE, 0, 0));
	must_branch(session, 0);
	order(&service, CMD_EXIT, 7);
	must_equal(corsa_next_event(session, &event, 10000), 1);
	must_equal(event.type, CORSA_EVENT_EXITED);
	must_equal(corsa_next_event(session, &event, 10000), 0);
	must_errno(corsa_switch_to(session, 0, 0, 0, NULL), ESRCH);
	must_equal(WEXITSTATUS(service_stop(&service)), 7);
	close(session);
}

/* All crashed, then left to itself: it must end, not hang. */
static void test_crash_detach(void)
{
	struct service service;
	int session = start_attached(&service, 0), status;
	struct corsa_event event;

	order(&service, CMD_ABORT, 0);
	event = crash_event(session);
	must_equal(event.id, 0);
	close(session);
	must(waitpid(service.pid, &status, 0) == service.pid);
	must(WIFSIGNALED(status));
}

/* A signal with a handler, or from outside, is not a crash. */
static void test_not_a_crash(void)
{
	struct service service;
	int session = start_attached(&service, 0), status;
	struct corsa_event event;

	must_equal(call(&service, CMD_SIGNAL, 1).handled, 1);
	must(!kill(service.pid, SIGTERM));
	must_equal(corsa_next_event(session, &event, 10000), 1);
	must_equal(event.type, CORSA_EVENT_EXITED);
	must(waitpid(service.pid, &status, 0) == service.pid);
	must_equal(WTERMSIG(status), SIGTERM);
	close(session);
}

const struct test crash_tests[] = {
	{ "crash-park", test_crash_park },
	{ "crash-standby", test_crash_standby },
	{ "crash-pass", test_crash_pass },
	{ "crash-detach", test_crash_detach },
	{ "crash-not", test_not_a_crash },
	{ 0 },
};
