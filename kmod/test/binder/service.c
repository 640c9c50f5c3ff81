// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../corsa.h"
#include "binder.h"
#include "service.h"

#define HEAP_PAGES 1024

/* What CODE_OBJECT hands out: its address is the same in every instance. */
struct object {
	uint32_t owner;
	uint32_t calls;
};

static int device = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct answer state;
static uint32_t *heap; /* one word a page: the uid that wrote it */
static struct object object;
static uint32_t keeper; /* who wants to be told of the end of state.kept */

static pthread_cond_t alone = PTHREAD_COND_INITIALIZER;
static uint32_t alone_handle;

static uint32_t check_payload(const struct message *message)
{
	const uint32_t *words = message->data;
	uint32_t seed = message->size >= 4 ? words[0] : 0, i;

	if (message->size != PAYLOAD_WORDS * 4)
		return WRONG_SIZE;
	for (i = 1; i < PAYLOAD_WORDS; i++)
		if (words[i] != word(seed, i))
			return WRONG_WORDS;
	return 0;
}

/* Holds the lock. */
static void step(uint32_t uid, int oneway)
{
	uint32_t i, n;

	if (!state.owner)
		state.owner = uid;
	if (state.owner != uid)
		state.wrong |= WRONG_OWNER;
	n = oneway ? ++state.oneways : ++state.steps;
	heap[n % HEAP_PAGES * 1024] = state.owner;
	for (i = 0; i < 16; i++) {
		uint32_t page = heap[(n + i * 97) % HEAP_PAGES * 1024];

		if (page && page != state.owner)
			state.wrong |= WRONG_HEAP;
	}
}

static uint32_t first_word(const struct message *message)
{
	return message->size >= 4 ? *(const uint32_t *)message->data : 0;
}

static uint32_t call_back(struct conn *conn, uint32_t handle, handler handle_it)
{
	struct parcel nothing = { .data = "" };
	struct message answer;

	if (conn_call(conn, handle, CODE_CALLED, 0, &nothing, &answer, handle_it))
		return WRONG_CALLBACK;
	conn_free(conn, &answer);
	return 0;
}

static void note_death(uint64_t cookie)
{
	pthread_mutex_lock(&lock);
	state.deaths++;
	if (cookie != keeper)
		state.wrong |= WRONG_DEATH;
	pthread_mutex_unlock(&lock);
}

static void answer_with(struct conn *conn, const struct answer *answer,
			const struct flat_binder_object *given)
{
	struct parcel parcel = { .data = answer, .size = sizeof(*answer),
				 .object = given };

	conn_reply(conn, &parcel);
}

static void handle_message(struct conn *conn, struct message *message)
{
	int oneway = message->head.flags & TF_ONE_WAY;
	uint32_t code = message->head.code, uid = message->head.sender_euid;
	uint32_t handle = message->object.handle, wrong = 0, ms = 0;
	struct flat_binder_object given = {
		.hdr.type = BINDER_TYPE_BINDER, .flags = 0x7f,
		.binder = (uintptr_t)&object, .cookie = (uintptr_t)&object,
	};
	struct answer answer;

	if (code == CODE_CRASH)
		*(volatile int *)0 = 1;
	if (code == CODE_EXIT)
		_exit(7);
	if (code == CODE_STEP)
		wrong = check_payload(message);
	if (code == CODE_NAP)
		ms = first_word(message);
	if (message->has_object)
		conn_acquire(conn, handle);
	if (code == CODE_KEEP)
		conn_request_death(conn, handle, uid);
	if (code == CODE_DROP)
		conn_release(conn, state.kept);
	conn_free(conn, message);
	if (ms || oneway || message->has_object || code == CODE_DROP)
		conn_flush(conn);
	if (ms)
		usleep(ms * 1000);
	if (code == CODE_CALLBACK)
		wrong |= call_back(conn, handle, handle_message);

	if (code == CODE_CALL_KEPT)
		wrong |= call_back(conn, state.kept, handle_message);

	pthread_mutex_lock(&lock);
	step(uid, oneway);
	if (code == CODE_KEEP) {
		state.kept = handle;
		keeper = uid;
	}
	if (message->head.target.ptr == (uintptr_t)&object) {
		if (object.owner != uid)
			state.wrong |= WRONG_OBJECT;
		object.calls++;
	}
	if (code == CODE_OBJECT)
		object.owner = uid;
	if (code == CODE_CALL_ALONE) {
		alone_handle = handle;
		pthread_cond_signal(&alone);
	}
	state.wrong |= wrong;
	state.eintr += conn->eintr;
	conn->eintr = 0;
	state.object = object.calls;
	answer = state;
	pthread_mutex_unlock(&lock);

	if (!oneway)
		answer_with(conn, &answer, code == CODE_OBJECT ? &given : NULL);
}

/* Calls out of its own accord, outside of every transaction. */
static void *call_alone(void *unused)
{
	struct conn conn;
	uint32_t handle, wrong;

	(void)unused;
	conn_init(&conn, device);
	conn.on_death = note_death;
	for (;;) {
		pthread_mutex_lock(&lock);
		while (!alone_handle)
			pthread_cond_wait(&alone, &lock);
		handle = alone_handle;
		alone_handle = 0;
		pthread_mutex_unlock(&lock);
		wrong = call_back(&conn, handle, handle_message);
		conn_flush(&conn);
		pthread_mutex_lock(&lock);
		state.wrong |= wrong;
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void *looper(void *unused)
{
	struct conn conn;

	(void)unused;
	conn_init(&conn, device);
	conn.on_death = note_death;
	conn_serve(&conn, handle_message);
	perror("service: BINDER_WRITE_READ");
	_exit(1);
}

static void serve(const char *path, int ready)
{
	uint32_t zero = 0;
	pthread_t thread;
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	device = device_open(path);
	heap = calloc(HEAP_PAGES, 4096);
	must(device >= 0 && heap);
	must(!ioctl(device, BINDER_SET_MAX_THREADS, &zero));
	must(!ioctl(device, BINDER_SET_CONTEXT_MGR, &zero));
	must(!pthread_create(&thread, NULL, call_alone, NULL));
	for (i = 1; i < SERVICE_THREADS; i++)
		must(!pthread_create(&thread, NULL, looper, NULL));
	usleep(50000); /* until they wait */
	must(write(ready, "", 1) == 1);
	looper(NULL);
}

void binder_service_start(struct binder_service *service, const char *name)
{
	int ready[2];
	char c;

	memset(service, 0, sizeof(*service));
	must(!device_create(name, service->device, sizeof(service->device)));
	must(!pipe(ready));
	fflush(stdout);
	service->pid = fork();
	must(service->pid >= 0);
	if (!service->pid) {
		close(ready[0]);
		serve(service->device, ready[1]);
	}
	close(ready[1]);
	must(read(ready[0], &c, 1) == 1);
	close(ready[0]);
	service->pidfd = syscall(SYS_pidfd_open, service->pid, 0);
	must(service->pidfd >= 0);
}

void binder_service_stop(struct binder_service *service)
{
	kill(service->pid, SIGKILL);
	waitpid(service->pid, NULL, 0);
	close(service->pidfd);
	device_remove(service->device);
}
