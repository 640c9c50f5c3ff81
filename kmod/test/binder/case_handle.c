// SPDX-License-Identifier: GPL-2.0
/* What instances hold of their apps' objects, and what they learn of their end. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

/* An app that does what it is told, one thing after the other. */
struct puppet {
	pid_t pid;
	int fd;
};

struct order {
	uint32_t code;	/* of the service, or one of these */
#define ORDER_RELEASED 1000	/* has our object been released? */
};

struct result {
	int ret;
	uint32_t called;
	uint32_t released;
	struct answer answer;
};

static int app_puppet(uint32_t uid, void *data)
{
	struct puppet *puppet = data;
	struct result result;
	struct order order;
	struct conn conn;
	char device[64];

	must(read(puppet->fd, device, sizeof(device)) == sizeof(device));
	client_open(&conn, device, uid);
	while (read(puppet->fd, &order, sizeof(order)) == sizeof(order)) {
		memset(&result, 0, sizeof(result));
		if (order.code == ORDER_RELEASED)
			conn_hear(&conn, 300);
		else if (order.code == CODE_KEEP)
			result.ret = client_lend(&conn, order.code, 0,
						 &result.answer);
		else
			result.ret = client_say_nested(&conn, order.code, 0,
						       &result.answer);
		result.called = client_called;
		result.released = conn.released;
		must(write(puppet->fd, &result, sizeof(result)) ==
		     sizeof(result));
	}
	return 0;
}

static struct puppet puppet_start(const char *device, uint32_t uid)
{
	char name[64] = "";
	struct puppet puppet, child;
	int fds[2];

	must(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
	child.fd = fds[1];
	puppet.fd = fds[0];
	puppet.pid = client_fork(uid, app_puppet, &child);
	close(fds[1]);
	strcpy(name, device);
	must(write(puppet.fd, name, sizeof(name)) == sizeof(name));
	return puppet;
}

static struct result puppet_do(struct puppet *puppet, uint32_t code)
{
	struct order order = { code };
	struct result result;

	must(write(puppet->fd, &order, sizeof(order)) == sizeof(order));
	must(read(puppet->fd, &result, sizeof(result)) == sizeof(result));
	must_equal(result.ret, 0);
	must_equal(result.answer.wrong, 0);
	return result;
}

static void puppet_kill(struct puppet *puppet)
{
	kill(puppet->pid, SIGKILL);
	waitpid(puppet->pid, NULL, 0);
	close(puppet->fd);
}

/* A number that an image knows means the same when that is restored. */
static void test_handles(void)
{
	struct binder_service service;
	int session = start_gated(&service, "handles", CORSA_BINDER_EUID, 0);
	struct puppet first = puppet_start(service.device, FIRST_UID);
	struct puppet second = puppet_start(service.device, FIRST_UID + 1);
	struct result result;
	uint32_t ids[2], image, handle;

	gate_branches(session, 2, ids);
	handle = puppet_do(&first, CODE_KEEP).answer.kept;
	image = must_image(session, ids[0]);
	puppet_do(&first, CODE_DROP);
	result = puppet_do(&second, CODE_KEEP);
	must(result.answer.kept != handle);
	puppet_do(&second, CODE_CALL_KEPT);
	must(!corsa_restore_to(session, image, ids[0]));
	result = puppet_do(&first, CODE_CALL_KEPT);
	must_equal(result.called, 1);
	result = puppet_do(&second, CODE_CALL_KEPT);
	must_equal(result.called, 2);
	puppet_do(&first, CODE_DROP);
	puppet_do(&second, CODE_CALL_KEPT);
	must(!corsa_restore_to(session, image, ids[0]));
	must_equal(puppet_do(&first, CODE_CALL_KEPT).called, 2);
	puppet_kill(&first);
	puppet_kill(&second);
	binder_service_stop(&service);
}

/* An object is released when the last record that has it is gone. */
static void test_release(void)
{
	struct binder_service service;
	int session = start_gated(&service, "release", CORSA_BINDER_EUID, 0);
	struct puppet puppet = puppet_start(service.device, FIRST_UID);
	uint32_t id, image, copy;

	gate_branches(session, 1, &id);
	puppet_do(&puppet, CODE_KEEP);
	image = must_image(session, id);
	copy = must_branch(session, image);
	puppet_do(&puppet, CODE_DROP);
	must(!corsa_discard_id(session, image));
	must_equal(puppet_do(&puppet, ORDER_RELEASED).released, 0);
	must(!corsa_discard_id(session, copy));
	must_equal(puppet_do(&puppet, ORDER_RELEASED).released, 1);
	puppet_kill(&puppet);
	binder_service_stop(&service);
}

/* Until n are known of, or for a while. */
static uint32_t deaths(struct puppet *puppet, uint32_t n)
{
	uint32_t got = 0;
	int i;

	for (i = 0; i < 50 && got < n; i++) {
		got = puppet_do(puppet, CODE_NAP).answer.deaths;
		usleep(5000);
	}
	return got;
}

/* Each instance is told of the deaths that it wants to know of, in its turn. */
static void test_deaths(void)
{
	struct binder_service service;
	int session = start_gated(&service, "deaths", CORSA_BINDER_EUID, 0);
	struct puppet first = puppet_start(service.device, FIRST_UID);
	struct puppet second = puppet_start(service.device, FIRST_UID + 1);
	uint32_t ids[2], before;
	int i;

	gate_branches(session, 2, ids);
	before = must_image(session, ids[0]);
	puppet_do(&first, CODE_KEEP);
	puppet_do(&second, CODE_KEEP);
	puppet_kill(&first);
	for (i = 0; i < 20; i++) {
		must_equal(puppet_do(&second, CODE_NAP).answer.deaths, 0);
		usleep(5000);
	}
	first = puppet_start(service.device, FIRST_UID);
	must_equal(deaths(&first, 1), 1);
	/* Restored to when it had asked for nothing; then it asks again. */
	must(!corsa_restore_to(session, before, ids[0]));
	must_equal(puppet_do(&first, CODE_NAP).answer.deaths, 0);
	puppet_do(&first, CODE_KEEP);
	puppet_kill(&second);
	second = puppet_start(service.device, FIRST_UID + 1);
	must_equal(deaths(&second, 1), 1);
	must_equal(deaths(&first, 1), 0);
	puppet_kill(&first);
	first = puppet_start(service.device, FIRST_UID);
	must_equal(deaths(&first, 1), 1);
	must_equal(deaths(&second, 2), 1);
	puppet_kill(&first);
	puppet_kill(&second);
	must_be_idle(session);
	binder_service_stop(&service);
}

/* A copy wants to know what its source wanted, and has been told what that was. */
static void test_deaths_copied(void)
{
	struct binder_service service;
	int session = start_gated(&service, "deathscopied", CORSA_BINDER_EUID, 0);
	struct puppet puppet = puppet_start(service.device, FIRST_UID);
	uint32_t id, image;
	int i;

	gate_branches(session, 1, &id);
	puppet_do(&puppet, CODE_KEEP);
	image = must_image(session, id);
	puppet_kill(&puppet);
	puppet = puppet_start(service.device, FIRST_UID);
	for (i = 0; i < 3; i++) {
		must_equal(deaths(&puppet, 1), 1);
		must(!corsa_restore_to(session, image, id));
	}
	must_equal(deaths(&puppet, 2), 1);
	puppet_kill(&puppet);
	must_be_idle(session);
	binder_service_stop(&service);
}

const struct test handle_tests[] = {
	{ "handles", test_handles },
	{ "release", test_release },
	{ "deaths", test_deaths },
	{ "deaths-copied", test_deaths_copied },
	{ 0 }
};
