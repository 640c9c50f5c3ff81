// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "corsa.h"

/* What the service must say after n steps of the instance that is active. */
static void must_be_at(struct service *service, uint64_t steps)
{
	struct reply reply = call(service, CMD_LOOK, 0);

	must_equal(reply.steps, steps);
	must_equal(reply.main_tls, steps);
	must_equal(reply.worker_tls, steps);
	must_equal(reply.kept_page, steps);
	must_equal(reply.file_offset, steps);
}

static void step(struct service *service, int times)
{
	while (times--)
		call(service, CMD_STEP, 0);
}

static void test_version(void)
{
	struct corsa_version v = { .size = sizeof(v) };

	must(!ioctl(dev, CORSA_IOC_VERSION, &v));
	must_equal(v.major, CORSA_ABI_MAJOR);
	v.reserved = 1;
	must_errno(ioctl(dev, CORSA_IOC_VERSION, &v), EINVAL);
	v = (struct corsa_version){ .size = 2 };
	must_errno(ioctl(dev, CORSA_IOC_VERSION, &v), EINVAL);
	must_errno(ioctl(dev, CORSA_IOC_LIST, &v), ENOTTY);
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

const struct test tests[] = {
	{ "version", test_version },
	{ "branch-and-switch", test_branch_and_switch },
	{ NULL, NULL },
};
