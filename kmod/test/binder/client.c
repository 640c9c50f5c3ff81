// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "client.h"

uint32_t client_called, client_reply_size;
static int nest_calls;
static char reply[CLIENT_REPLY_MAX];

void client_open(struct conn *conn, const char *device, uint32_t uid)
{
	int fd;

	/* Not setuid(): that is for all threads, and this is for one. */
	if (uid)
		must(!syscall(SYS_setresuid, uid, uid, uid));
	fd = device_open(device);
	must(fd >= 0);
	conn_init(conn, fd);
}

static int call_on(struct conn *conn, uint32_t handle, uint32_t code,
		   uint32_t flags,
		   const struct parcel *parcel, struct answer *answer,
		   handler nested)
{
	struct message message;
	int ret = conn_call(conn, handle, code, flags, parcel, &message, nested);

	if (ret || flags & TF_ONE_WAY)
		return ret;
	if (message.size < sizeof(*answer))
		return -1;
	if (answer)
		memcpy(answer, message.data, sizeof(*answer));
	conn_free(conn, &message);
	conn_flush(conn);
	return 0;
}

static int call_with(struct conn *conn, uint32_t code, uint32_t flags,
		     const struct parcel *parcel, struct answer *answer,
		     handler nested)
{
	return call_on(conn, 0, code, flags, parcel, answer, nested);
}

uint32_t client_get(struct conn *conn, struct answer *answer)
{
	struct parcel nothing = { .data = "" };
	struct message message;

	if (conn_call(conn, 0, CODE_OBJECT, 0, &nothing, &message, NULL))
		return 0;
	if (!message.has_object || message.size < sizeof(*answer))
		return 0;
	memcpy(answer, message.data, sizeof(*answer));
	conn_acquire(conn, message.object.handle);
	conn_free(conn, &message);
	conn_flush(conn);
	return message.object.handle;
}

static int step_on(struct conn *conn, uint32_t handle, uint32_t uid, uint32_t k,
		   uint32_t flags, struct answer *answer)
{
	uint32_t words[PAYLOAD_WORDS], seed = seed_of(uid, k), i;
	struct parcel parcel = { .data = words, .size = sizeof(words) };

	words[0] = seed;
	for (i = 1; i < PAYLOAD_WORDS; i++)
		words[i] = word(seed, i);
	return call_on(conn, handle, CODE_STEP, flags, &parcel, answer, NULL);
}

int client_step(struct conn *conn, uint32_t uid, uint32_t k, uint32_t flags,
		struct answer *answer)
{
	return step_on(conn, 0, uid, k, flags, answer);
}

int client_step_on(struct conn *conn, uint32_t handle, uint32_t uid, uint32_t k,
		   struct answer *answer)
{
	return step_on(conn, handle, uid, k, 0, answer);
}

int client_say(struct conn *conn, uint32_t code, uint32_t value,
	       struct answer *answer)
{
	struct parcel parcel = { .data = &value, .size = sizeof(value) };

	return call_with(conn, code, 0, &parcel, answer, NULL);
}

static void on_called(struct conn *conn, struct message *message)
{
	struct parcel parcel = { .data = reply, .size = client_reply_size };
	struct answer answer;

	client_called++;
	conn_free(conn, message);
	conn_flush(conn);
	/* Into the middle of the call that we are within. */
	if (nest_calls &&
	    (client_step(conn, getuid(), client_called, 0, &answer) ||
	     client_step(conn, getuid(), client_called, TF_ONE_WAY, NULL)))
		client_called = 0;
	if (client_reply_size)
		usleep(rand() % 2000);
	conn_reply(conn, &parcel);
}

int client_say_nested(struct conn *conn, uint32_t code, uint32_t value,
		      struct answer *answer)
{
	struct parcel parcel = { .data = &value, .size = sizeof(value) };

	return call_with(conn, code, 0, &parcel, answer, on_called);
}

int client_lend(struct conn *conn, uint32_t code, int nest,
		struct answer *answer)
{
	struct flat_binder_object object = {
		.hdr.type = BINDER_TYPE_BINDER, .flags = 0x7f,
		.binder = (uintptr_t)conn, .cookie = (uintptr_t)conn,
	};
	struct parcel parcel = { .data = "", .object = &object };

	nest_calls = nest;
	return call_with(conn, code, 0, &parcel, answer, on_called);
}

int client_is_called(struct conn *conn, int ms)
{
	/* Only threads that serve are told of calls. */
	conn_enter(conn);
	struct pollfd p = { .fd = conn->fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

int client_be_called(struct conn *conn)
{
	return conn_serve_one(conn, on_called);
}

pid_t client_fork(uint32_t uid, app run, void *data)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	must(pid >= 0);
	if (!pid) {
		int ret;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		ret = run(uid, data);
		fflush(stdout);
		_exit(ret);
	}
	return pid;
}

int client_wait(pid_t pid)
{
	int status;

	must(waitpid(pid, &status, 0) == pid);
	return status;
}

int clients_run(uint32_t n, app run, void *data)
{
	pid_t pids[64];
	uint32_t i;
	int failed = 0;

	must(n <= 64);
	for (i = 0; i < n; i++)
		pids[i] = client_fork(FIRST_UID + i, run, data);
	for (i = 0; i < n; i++)
		failed += client_wait(pids[i]) != 0;
	return failed;
}

int gate_enable(int session, uint32_t key, uint32_t flags, uint64_t wait_ns,
		struct corsa_binder_enable *out)
{
	struct corsa_binder_enable e = { .size = sizeof(e), .key = key,
					 .flags = flags, .wait_ns = wait_ns };
	int ret = ioctl(session, CORSA_IOC_BINDER_ENABLE, &e);

	if (out)
		*out = e;
	return ret;
}

int start_gated(struct binder_service *service, const char *name, uint32_t key,
		uint64_t wait_ns)
{
	struct corsa_binder_enable enabled;
	int session;

	binder_service_start(service, name);
	session = corsa_attach(dev, service->pidfd, 0);
	must(session >= 0);
	must(!gate_enable(session, key, 0, wait_ns, &enabled));
	must_equal(enabled.devices, 1);
	return session;
}

int gate_route(int session, uint64_t key, uint32_t id, uint32_t flags,
	       uint32_t every)
{
	struct corsa_binder_route r = { .size = sizeof(r), .flags = flags,
					.key = key, .id = id, .every = every };

	return ioctl(session, CORSA_IOC_BINDER_ROUTE, &r);
}

void gate_branches(int session, uint32_t n, uint32_t *ids)
{
	uint32_t i, id;

	for (i = 0; i < n; i++) {
		id = must_branch(session, 0);
		must(!gate_route(session, FIRST_UID + i, id, 0, 0));
		if (ids)
			ids[i] = id;
	}
}

void gate_stats(int session, struct corsa_binder_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	stats->size = sizeof(*stats);
	must(!ioctl(session, CORSA_IOC_BINDER_STATS, stats));
}

void must_be_idle(int session)
{
	struct corsa_binder_stats stats;
	int i;

	for (i = 0; i < 100; i++) {
		gate_stats(session, &stats);
		if (!stats.in_progress && !stats.waiting)
			return;
		usleep(10000);
	}
	fail(__FILE__, __LINE__, "%u transactions in progress, %u wait",
	     stats.in_progress, stats.waiting);
}
