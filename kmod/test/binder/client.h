/* SPDX-License-Identifier: GPL-2.0 */
/* Apps: processes with a uid of their own that call the service. */
#ifndef CORSA_TEST_BINDER_CLIENT_H
#define CORSA_TEST_BINDER_CLIENT_H

#include "../corsa.h"
#include "binder.h"
#include "service.h"

#define FIRST_UID 2001

/* An open device, as uid. Ends the test on failure. */
void client_open(struct conn *conn, const char *device, uint32_t uid);
/* A call with 4 KiB of words that only uid and k give. As conn_call(). */
int client_step(struct conn *conn, uint32_t uid, uint32_t k, uint32_t flags,
		struct answer *answer);
/* A call with one word. */
int client_say(struct conn *conn, uint32_t code, uint32_t value,
	       struct answer *answer);
/* The same; the service may call what we have lent it. */
int client_say_nested(struct conn *conn, uint32_t code, uint32_t value,
		      struct answer *answer);
/* Asks for an object of the service; its handle, or 0. */
uint32_t client_get(struct conn *conn, struct answer *answer);
/* client_step() on it. */
int client_step_on(struct conn *conn, uint32_t handle, uint32_t uid, uint32_t k,
		   struct answer *answer);
/* client_say() with an object of ours, which is called; it calls back if told to. */
int client_lend(struct conn *conn, uint32_t code, int nest,
		struct answer *answer);
/* Is a call of the object that was lent there, within ms? */
int client_is_called(struct conn *conn, int ms);
/* Waits for it, and answers. */
int client_be_called(struct conn *conn);
extern uint32_t client_called; /* so often the object was called */
#define CLIENT_REPLY_MAX (64 << 10)
extern uint32_t client_reply_size; /* of what the object replies, with delay */

/* A child process that runs app(uid, data) and exits with what it returns. */
typedef int (*app)(uint32_t uid, void *data);
pid_t client_fork(uint32_t uid, app run, void *data);
/* 0: it exited with 0. */
int client_wait(pid_t pid);
/* n apps at once; how many have failed. */
int clients_run(uint32_t n, app run, void *data);

/* Attached, and the gate enabled for keys of kind key. */
int start_gated(struct binder_service *service, const char *name, uint32_t key,
		uint64_t wait_ns);
int gate_enable(int session, uint32_t key, uint32_t flags, uint64_t wait_ns,
		struct corsa_binder_enable *out);
int gate_route(int session, uint64_t key, uint32_t id, uint32_t flags,
	       uint32_t every);
/* A branch of record 0 for each of n uids. */
void gate_branches(int session, uint32_t n, uint32_t *ids);
void gate_stats(int session, struct corsa_binder_stats *stats);
/* Nothing is in progress and nobody waits, within a second. */
void must_be_idle(int session);

#endif
