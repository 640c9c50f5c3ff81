// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cases.h"

void must_be_at(struct service *service, uint64_t steps)
{
	struct reply reply = call(service, CMD_LOOK, 0);

	must_equal(reply.steps, steps);
	must_equal(reply.main_tls, steps);
	must_equal(reply.worker_tls, steps);
	must_equal(reply.kept_page, steps);
	must_equal(reply.file_offset, steps);
}

void step(struct service *service, int times)
{
	while (times--)
		call(service, CMD_STEP, 0);
}

static void patience(struct service *service, int ms)
{
	struct timeval time = { .tv_sec = ms / 1000,
				.tv_usec = ms % 1000 * 1000 };

	must(!setsockopt(service->fd, SOL_SOCKET, SO_RCVTIMEO, &time,
			 sizeof(time)));
}

void must_be_silent(struct service *service, int ms)
{
	struct reply reply;

	patience(service, ms);
	must_errno(service_call(service, CMD_LOOK, 0, &reply), ETIMEDOUT);
	patience(service, 10000);
}

struct reply late_answer(struct service *service)
{
	struct reply reply;

	must_equal(recv(service->fd, &reply, sizeof(reply), 0), sizeof(reply));
	return reply;
}

static void test_version(void)
{
	struct corsa_version v = { .size = sizeof(v) };
	struct {
		struct corsa_version v;
		uint64_t more;
	} longer = { .v.size = sizeof(longer) };

	must(!ioctl(dev, CORSA_IOC_VERSION, &v));
	must_equal(v.major, CORSA_ABI_MAJOR);
	v.reserved = 1;
	must_errno(ioctl(dev, CORSA_IOC_VERSION, &v), EINVAL);
	v = (struct corsa_version){ .size = 2 };
	must_errno(ioctl(dev, CORSA_IOC_VERSION, &v), EINVAL);
	must_errno(ioctl(dev, CORSA_IOC_LIST, &v), ENOTTY);
	must(!ioctl(dev, CORSA_IOC_VERSION, &longer));
	longer.more = 1;
	must_errno(ioctl(dev, CORSA_IOC_VERSION, &longer), E2BIG);
	must_errno(ioctl(dev, CORSA_IOC_VERSION, NULL), EFAULT);
}

static void test_attach_errors(void)
{
	struct corsa_attach self = { .size = sizeof(self), .pidfd = dev };
	struct service service;
	int session = start_attached(&service, 0);

	must_errno(ioctl(dev, CORSA_IOC_ATTACH, &self), EBADF);
	self.flags = ~0U;
	must_errno(ioctl(dev, CORSA_IOC_ATTACH, &self), EINVAL);
	must_errno(corsa_attach(dev, service.pidfd, 0), EBUSY);
	must_errno(corsa_switch_to(session, 99, 0, 0, NULL), ENOENT);
	must_errno(corsa_switch_to(session, 0, ~0U, 0, NULL), EINVAL);
	must_errno(corsa_switch_to(session, CORSA_NONE, CORSA_ACTIVATE_HOLD, 0,
				   NULL), EINVAL);
	must_errno(ioctl(session, CORSA_IOC_ATTACH, &self), ENOTTY);
	must_errno(corsa_discard_id(session, 0), EBUSY);
	must_errno(corsa_copy_of(session, 0, 0, ~0U, NULL), EINVAL);
	must_errno(corsa_copy_of(session, 5, 0, 0, NULL), ENOENT);
	must_be_at(&service, 0);
	close(session);
	service_stop(&service);
}

static void test_branch_and_switch(void)
{
	struct service service;
	int session = start_attached(&service, 0);
	uint32_t id;

	step(&service, 3);
	id = must_branch(session, 0);
	step(&service, 2);
	must_be_at(&service, 5);
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	must_be_at(&service, 3);
	step(&service, 4);
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	must_be_at(&service, 5);
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	must_be_at(&service, 7);
	close(session);
	must_be_at(&service, 7);
	step(&service, 1);
	must_be_at(&service, 8);
	service_stop(&service);
}

static void test_park(void)
{
	struct service service;
	int session = start_attached(&service, 0);

	step(&service, 2);
	must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
	must_be_silent(&service, 300);
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	must_equal(late_answer(&service).steps, 2);
	must_be_at(&service, 2);
	/* Twice is no error; a parked process can be detached. */
	must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
	must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
	close(session);
	must_be_at(&service, 2);
	service_stop(&service);
}

static void cwd_of(struct service *service, char *cwd)
{
	char path[64];
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/%d/cwd", service->pid);
	length = readlink(path, cwd, PATH_MAX - 1);
	must(length > 0);
	cwd[length] = 0;
}

static void test_hold(void)
{
	char cwd[PATH_MAX];
	struct service service;
	int session = start_attached(&service, 0);
	uint32_t id;

	call(&service, CMD_CHDIR, 0);
	id = must_branch(session, 0);
	call(&service, CMD_CHDIR, 1);
	cwd_of(&service, cwd);
	must(!strcmp(cwd, "/proc"));
	must(!corsa_switch_to(session, id, CORSA_ACTIVATE_HOLD, 0, NULL));
	cwd_of(&service, cwd);
	must(!strcmp(cwd, "/"));
	must_be_silent(&service, 200);
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	must_equal(late_answer(&service).cwd_is_proc, 0);
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	must_equal(call(&service, CMD_LOOK, 0).cwd_is_proc, 1);
	/* From parked to held to parked. */
	must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
	must(!corsa_switch_to(session, id, CORSA_ACTIVATE_HOLD, 0, NULL));
	must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	must_equal(call(&service, CMD_LOOK, 0).cwd_is_proc, 1);
	close(session);
	service_stop(&service);
}

static void test_boundary(void)
{
	struct service_options busy = { .spin = 1 };
	const uint64_t ms = 1000000;
	struct service service;
	int session = start_attached(&service, 0);
	uint32_t id;

	/* Its vector thread runs now and then, and sleeps most of the time. */
	must(!corsa_switch_to(session, CORSA_NONE, CORSA_ACTIVATE_BOUNDARY,
			      5000 * ms, NULL));
	must_be_silent(&service, 200);
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	late_answer(&service);
	/* Left asleep, what is sent wakes them, and they get no further. */
	id = must_branch(session, 0);
	must(!corsa_switch_to(session, CORSA_NONE,
			      CORSA_ACTIVATE_BOUNDARY | CORSA_ACTIVATE_LAZY,
			      5000 * ms, NULL));
	must_be_silent(&service, 200);
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	late_answer(&service);
	must(!corsa_switch_to(session, CORSA_NONE,
			      CORSA_ACTIVATE_BOUNDARY | CORSA_ACTIVATE_LAZY,
			      5000 * ms, NULL));
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	must_be_at(&service, 0);
	close(session);
	service_stop(&service);

	must(!service_start(&service, &busy));
	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	must_errno(corsa_switch_to(session, CORSA_NONE, CORSA_ACTIVATE_BOUNDARY,
				   50 * ms, NULL), EBUSY);
	must_be_at(&service, 0);
	must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
	must_be_silent(&service, 200);
	close(session);
	late_answer(&service);
	service_stop(&service);
}

static void test_vector(void)
{
	struct service service;
	int session = start_attached(&service, 0), i;
	uint32_t id;

	call(&service, CMD_VECTOR, 0x1111);
	id = must_branch(session, 0);
	call(&service, CMD_VECTOR, 0x2222);
	for (i = 0; i < 300; i++) {
		uint32_t to = i % 2 ? 0 : id;

		must(!corsa_switch_to(session, to, 0, 0, NULL));
		usleep(i % 7 * 300);
		must_equal(call(&service, CMD_LOOK, 0).vector,
			   to ? 0x1111 : 0x2222);
	}
	close(session);
	service_stop(&service);
}

static void test_signal_actions(void)
{
	struct service service;
	int session = start_attached(&service, 0);
	uint32_t id;

	must_equal(call(&service, CMD_SIGNAL, 1).handled, 1);
	id = must_branch(session, 0);
	must_equal(call(&service, CMD_SIGNAL, 2).handled, 1001);
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	must_equal(call(&service, CMD_SIGNAL, 0).handled, 2);
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	must_equal(call(&service, CMD_SIGNAL, 0).handled, 2001);
	must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	must_equal(call(&service, CMD_SIGNAL, 0).handled, 3);
	close(session);
	must_equal(call(&service, CMD_SIGNAL, 0).handled, 4);
	service_stop(&service);
}

const struct test switch_tests[] = {
	{ "version", test_version },
	{ "attach-errors", test_attach_errors },
	{ "branch-and-switch", test_branch_and_switch },
	{ "park", test_park },
	{ "hold", test_hold },
	{ "boundary", test_boundary },
	{ "vector", test_vector },
	{ "signal-actions", test_signal_actions },
	{ 0 },
};
