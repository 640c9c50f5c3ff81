// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cases.h"

static int search_fd(struct service *service, const char *text, int n)
{
	char path[64], link[512], target[256];
	struct dirent *entry;
	int fd = -1;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", service->pid);
	dir = opendir(path);
	must(dir);
	while ((entry = readdir(dir))) {
		ssize_t length;

		snprintf(link, sizeof(link), "%s/%s", path, entry->d_name);
		length = readlink(link, target, sizeof(target) - 1);
		if (length <= 0)
			continue;
		target[length] = 0;
		if (strstr(target, text) && !n--) {
			fd = atoi(entry->d_name);
			break;
		}
	}
	closedir(dir);
	return fd;
}

/* A thread of the service may be about to open it. */
int find_fd(struct service *service, const char *text, int n)
{
	int fd = -1, left = 1000;

	while (fd < 0 && left--) {
		fd = search_fd(service, text, n);
		if (fd < 0)
			usleep(5000);
	}
	must(fd >= 0);
	return fd;
}

/* An instance gets a socket of its own in place of the one it has. */
static void test_install(void)
{
	struct service service, private;
	int session = start_attached(&service, 0), pair[2], fd;
	struct corsa_fd_op op;
	uint32_t id, done;

	step(&service, 1);
	fd = find_fd(&service, "socket:", 0);
	id = must_branch(session, 0);
	must(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	op = (struct corsa_fd_op){ .op = CORSA_FD_INSTALL, .fd = fd,
				   .src = pair[1] };
	must_errno(corsa_fd_edit(session, 0, &op, 1, &done), EBUSY);
	must(!corsa_fd_edit(session, id, &op, 1, &done));
	must_equal(done, 1);
	close(pair[1]);
	private = service;
	private.fd = pair[0];

	/*
	 * Both clients have asked; each instance answers its own. The threads
	 * that wait in the other's socket are late, and must not matter.
	 */
	step(&service, 1);
	must(!corsa_switch_to(session, id, CORSA_ACTIVATE_LAZY, 0, NULL));
	must_be_at(&private, 1);
	step(&private, 4);
	must_be_silent(&service, 100);
	must(!corsa_switch_to(session, 0, CORSA_ACTIVATE_LAZY, 0, NULL));
	must_equal(late_answer(&service).steps, 2);
	must_be_at(&service, 2);
	must(!corsa_switch_to(session, id, CORSA_ACTIVATE_LAZY, 0, NULL));
	must_be_at(&private, 5);
	close(session);
	must_be_at(&private, 5);
	close(pair[0]);
	service_stop(&service);
}

static void test_epoll(void)
{
	struct service service;
	int session = start_attached(&service, 0), event = eventfd(1, 0);
	/* The service opens that of epoll_thread and its own in some order. */
	int first = find_fd(&service, "eventpoll", 0);
	int second = find_fd(&service, "eventpoll", 1);
	struct corsa_fd_op ops[] = {
		{ .op = CORSA_FD_INSTALL, .fd = 200, .src = event,
		  .flags = CORSA_FD_CLOEXEC },
		{ .op = CORSA_FD_DUP, .fd = 201, .src = 200 },
		{ .op = CORSA_FD_EPOLL_NEW, .fd = first },
		{ .op = CORSA_FD_EPOLL_NEW, .fd = second },
		{ .op = CORSA_FD_EPOLL_ADD, .fd = 201, .src = first,
		  .events = EPOLLIN, .data = 0x123456789 },
		{ .op = CORSA_FD_EPOLL_ADD, .fd = 201, .src = second,
		  .events = EPOLLIN, .data = 0x123456789 },
		{ .op = CORSA_FD_EPOLL_DEL, .fd = 201, .src = 199 },
		{ .op = CORSA_FD_CLOSE, .fd = 200 },
	};
	uint32_t id, done;
	int got;

	must(event >= 0);
	id = must_branch(session, 0);
	must_errno(corsa_fd_edit(session, id, ops, 8, &done), EBADF);
	must_equal(done, 6);
	must(!corsa_fd_edit(session, id, &ops[7], 1, &done));
	must_errno(corsa_fd_edit(session, id, &ops[7], 1, &done), EBADF);
	must_equal(done, 0);
	must_equal(call(&service, CMD_EPOLL, 0).value, 0);
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	must_equal(call(&service, CMD_EPOLL, 0).value, 0x123456789);
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	must_equal(call(&service, CMD_EPOLL, 0).value, 0);

	got = corsa_getfd_of(session, id, 201);
	must(got >= 0);
	must(fcntl(got, F_GETFD) & FD_CLOEXEC);
	must(write(got, (uint64_t[]){ 1 }, 8) == 8);
	must_errno(corsa_getfd_of(session, id, 200), EBADF);
	must_errno(corsa_getfd_of(session, 0, 201), EBADF);
	must_errno(corsa_getfd_of(session, 0, -1), EBADF);
	close(got);
	close(event);
	close(session);
	service_stop(&service);
}

const struct test fd_tests[] = {
	{ "install", test_install },
	{ "epoll", test_epoll },
	{ 0 },
};
