// SPDX-License-Identifier: GPL-2.0
/* What a switch that does not wait for everybody must not lose. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cases.h"

#define PATIENCE 5000000000ULL

int own_socket(struct service *service, int session, uint32_t id)
{
	struct corsa_fd_op op = { .op = CORSA_FD_INSTALL };
	int pair[2];

	must(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	op.fd = find_fd(service, "socket:", 0);
	op.src = pair[1];
	must(!corsa_fd_edit(session, id, &op, 1, NULL));
	close(pair[1]);
	return pair[0];
}

static void test_lazy(void)
{
	struct service service;
	int session = start_attached(&service, 0), i;
	uint32_t id;

	step(&service, 1);
	id = must_branch(session, 0);
	for (i = 0; i < 200; i++)
		must(!corsa_switch_to(session, i % 2 ? 0 : id,
				      CORSA_ACTIVATE_LAZY, 0, NULL));
	/* The socket is shared, so a late thread must not get the command. */
	must(!corsa_switch_to(session, id, CORSA_ACTIVATE_LAZY, 0, NULL));
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
	must_be_at(&service, 1);
	step(&service, 1);
	must_be_at(&service, 2);
	must(!corsa_switch_to(session, id, 0, 0, NULL));
	must_be_at(&service, 1);
	close(session);
	service_stop(&service);
}

/*
 * A thread that waits for signals and is left where it is would take those of
 * the other instance.
 */
static void take_signals(uint32_t flags, uint32_t by)
{
	struct service_options options = { .takers = 1 };
	uint64_t told[2] = { 0, 0 };
	struct service of[2];
	uint32_t ids[2] = { 0 };
	int session, i;

	must(!service_start(&of[0], &options));
	session = corsa_attach(dev, of[0].pidfd, 0);
	must(session >= 0);
	ids[1] = must_branch(session, 0);
	of[1] = of[0];
	of[1].fd = own_socket(&of[0], session, ids[1]);
	for (i = 0; i < 120; i++) {
		int now = i % 3 != 0;

		must(!corsa_switch_to(session, ids[now], flags, PATIENCE, NULL));
		must_equal(call(&of[now], CMD_TELL, by).value, ++told[now]);
	}
	close(of[1].fd);
	close(session);
	service_stop(&of[0]);
}

static void test_signals(void)
{
	uint32_t by;

	for (by = 0; by < TAKERS; by++) {
		take_signals(CORSA_ACTIVATE_LAZY, by);
		take_signals(CORSA_ACTIVATE_LAZY | CORSA_ACTIVATE_BOUNDARY, by);
	}
}

static int readable(int fd)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };

	return poll(&ready, 1, 0) == 1;
}

/*
 * What comes for an instance that is parked stays where it is, so that it can be
 * seen by others.
 */
static void test_untaken(void)
{
	const uint32_t flags = CORSA_ACTIVATE_LAZY | CORSA_ACTIVATE_BOUNDARY;
	struct service_options options = { .takers = 1 };
	struct service service;
	int session, in, out, i;

	must(!service_start(&service, &options));
	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	out = corsa_getfd_of(session, 0, call(&service, CMD_TAP, 0).value);
	in = corsa_getfd_of(session, 0, call(&service, CMD_TAP, 1).value);
	must(out >= 0 && in >= 0);
	for (i = 0; i < 100; i++) {
		must(!corsa_switch_to(session, CORSA_NONE, flags, PATIENCE, NULL));
		must(write(in, "x", 1) == 1);
		usleep(i % 5 * 1000);
		must(readable(out));
		must(!corsa_switch_to(session, 0, CORSA_ACTIVATE_LAZY, 0, NULL));
		while (readable(out))
			usleep(200);
		while (call(&service, CMD_TAPPED, 0).value != (uint64_t)i + 1)
			usleep(200);
	}
	must_equal(call(&service, CMD_LOOK, 0).eintr, 0);
	close(in);
	close(out);
	close(session);
	service_stop(&service);
}

const struct test lazy_tests[] = {
	{ "lazy", test_lazy },
	{ "lazy-signals", test_signals },
	{ "lazy-untaken", test_untaken },
	{ 0 },
};
