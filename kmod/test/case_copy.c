// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"

static void test_image(void)
{
	struct service service;
	int session = start_attached(&service, 0), i;
	uint32_t image, id;

	call(&service, CMD_TAG, 10);
	step(&service, 2);
	image = must_image(session, 0);
	must_errno(corsa_switch_to(session, image, 0, 0, NULL), EINVAL);
	call(&service, CMD_TAG, 20);
	step(&service, 1);
	for (i = 0; i < 5; i++) {
		id = must_branch(session, image);
		must(!corsa_switch_to(session, id, 0, 0, NULL));
		must_be_at(&service, 2);
		must_equal(call(&service, CMD_LOOK, 0).heap_tag, 10);
		call(&service, CMD_TAG, 30 + i);
		step(&service, i);
		must(!corsa_switch_to(session, 0, 0, 0, NULL));
		must_be_at(&service, 3);
		must_equal(call(&service, CMD_LOOK, 0).heap_tag, 20);
		must(!corsa_discard_id(session, id));
		must_errno(corsa_switch_to(session, id, 0, 0, NULL), ENOENT);
	}
	close(session);
	must_be_at(&service, 3);
	service_stop(&service);
}

static void test_restore(void)
{
	struct service service;
	int session = start_attached(&service, 0), i;
	uint32_t image, other;

	step(&service, 2);
	image = must_image(session, 0);
	other = must_branch(session, image);
	must_errno(corsa_restore_to(session, image, image), EINVAL);
	must_errno(corsa_restore_to(session, image, 99), ENOENT);
	for (i = 0; i < 5; i++) {
		/* The active one: it goes on from there at once. */
		step(&service, i);
		must(!corsa_restore_to(session, image, 0));
		must_be_at(&service, 2);
		/* A dormant one. */
		must(!corsa_switch_to(session, other, 0, 0, NULL));
		step(&service, 3);
		must(!corsa_switch_to(session, 0, 0, 0, NULL));
		must(!corsa_restore_to(session, image, other));
		must_be_at(&service, 2);
		must(!corsa_switch_to(session, other, 0, 0, NULL));
		must_be_at(&service, 2);
		must(!corsa_switch_to(session, 0, 0, 0, NULL));
		/* While parked in it. */
		step(&service, 1);
		must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
		must(!corsa_restore_to(session, image, 0));
		must(!corsa_switch_to(session, 0, 0, 0, NULL));
		must_be_at(&service, 2);
	}
	must(!corsa_discard_id(session, image));
	close(session);
	must_be_at(&service, 2);
	service_stop(&service);
}

static void test_wipe(void)
{
	struct service service;
	int session = start_attached(&service, 0);
	struct corsa_copy kept, wiped;

	must_equal(call(&service, CMD_WIPE, 0).value, 7000);
	must(!corsa_copy_of(session, 0, 0, 0, &kept));
	must(!corsa_copy_of(session, 0, 0, CORSA_COPY_WIPE, &wiped));
	must(!corsa_switch_to(session, kept.id, 0, 0, NULL));
	must_equal(call(&service, CMD_WIPE, 0).value, 7000);
	must(!corsa_switch_to(session, wiped.id, 0, 0, NULL));
	must_equal(call(&service, CMD_WIPE, 0).value, 0);
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	must_equal(call(&service, CMD_WIPE, 0).value, 7000);
	/* The area kept its name: a fork() of the service still wipes it. */
	close(session);
	service_stop(&service);
}

static void test_shared_offsets(void)
{
	struct service service;
	int session = start_attached(&service, 0);
	struct corsa_copy copy;

	step(&service, 2);
	must(!corsa_copy_of(session, 0, 0, CORSA_COPY_SHARED_OFFSETS, &copy));
	step(&service, 3);
	must(!corsa_switch_to(session, copy.id, 0, 0, NULL));
	must_equal(call(&service, CMD_LOOK, 0).file_offset, 5);
	must_equal(call(&service, CMD_LOOK, 0).steps, 2);
	close(session);
	service_stop(&service);
}

static void test_list(void)
{
	struct corsa_record_info records[4];
	struct corsa_copy copy = { .size = sizeof(copy), .cookie = 77 };
	struct service service;
	int session = start_attached(&service, 0);
	struct corsa_list list;

	must(!ioctl(session, CORSA_IOC_CHECKPOINT, &copy));
	must_branch(session, copy.id);
	must(!corsa_list_all(session, records, 4, &list));
	must_equal(list.count, 3);
	must_equal(list.active, 0);
	must_equal(list.held, 0);
	must_equal(records[0].flags, CORSA_RECORD_ACTIVE);
	must_equal(records[0].parent, CORSA_NONE);
	must_equal(records[1].flags, CORSA_RECORD_IMAGE);
	must_equal(records[1].cookie, 77);
	must_equal(records[1].threads, records[0].threads);
	must_equal(records[2].parent, 1);
	must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
	must(!corsa_list_all(session, records, 1, &list));
	must_equal(list.count, 3);
	must_equal(list.active, CORSA_NONE);
	must_equal(list.last, 0);
	close(session);
	service_stop(&service);
}

static void test_memory(void)
{
	struct service service;
	int session = start_attached(&service, 0);
	struct corsa_memory before, after;
	uint32_t id;

	call(&service, CMD_TAG, 1);
	must(!corsa_memory_of(session, 0, &before));
	must(before.unique >= 1 << 20);
	must(before.resident >= before.unique);
	must(before.page_tables > 0);
	id = must_branch(session, 0);
	must(!corsa_memory_of(session, id, &after));
	must(after.unique < 256 << 10);
	must(after.resident >= 1 << 20);
	/* The first write to each page makes a copy. */
	call(&service, CMD_TAG, 2);
	must(!corsa_memory_of(session, id, &after));
	must(after.unique >= 1 << 20);
	close(session);
	service_stop(&service);
}

static void refused(int session, uint32_t kind)
{
	struct corsa_refusal list[4] = { 0 };
	struct corsa_copy copy = { .size = sizeof(copy), .refusal_cap = 4,
				   .refusals = (uintptr_t)list };

	must_errno(ioctl(session, CORSA_IOC_CHECKPOINT, &copy), EOPNOTSUPP);
	must_equal(copy.refusal_count, 1);
	must_equal(list[0].kind, kind);
	if (kind == CORSA_REFUSE_FILE_LOCK)
		must(list[0].fd > 2);
	else
		must_equal(list[0].fd, -1);
}

static void test_refusals(void)
{
	struct service service;
	int session = start_attached(&service, 0);

	must_equal(call(&service, CMD_LOCK, 0).value, 0);
	refused(session, CORSA_REFUSE_FILE_LOCK);
	must_be_at(&service, 0);
	close(session);
	must_be_at(&service, 0);
	must_errno(corsa_attach(dev, service.pidfd, 0), EOPNOTSUPP);
	must_be_at(&service, 0);
	service_stop(&service);

	session = start_attached(&service, 0);
	must(!ptrace(PTRACE_SEIZE, service.pid, 0, 0));
	refused(session, CORSA_REFUSE_PTRACED);
	must_be_at(&service, 0);
	close(session);
	must_be_at(&service, 0);
	service_stop(&service);
}

const struct test copy_tests[] = {
	{ "image", test_image },
	{ "restore", test_restore },
	{ "wipe", test_wipe },
	{ "shared-offsets", test_shared_offsets },
	{ "list", test_list },
	{ "memory", test_memory },
	{ "refusals", test_refusals },
	{ 0 },
};
