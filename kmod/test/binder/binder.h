/* SPDX-License-Identifier: GPL-2.0 */
/* As much of Binder's protocol as the tests need, without a library. */
#ifndef CORSA_TEST_BINDER_H
#define CORSA_TEST_BINDER_H

#include <linux/android/binder.h>
#include <stddef.h>
#include <stdint.h>

/* What comes in: data and, if has_object, one object at its end. */
struct message {
	struct binder_transaction_data head;
	const void *data;
	size_t size;
	int has_object;
	struct flat_binder_object object;
};

/* One thread's way to the driver. */
struct conn {
	int fd;
	size_t out_size;
	uint8_t out[1024];
	uint8_t in[1024];
	size_t in_size;
	size_t in_pos;
	uint32_t eintr;	/* seen so often */
	uint32_t released;	/* BR_RELEASE */
	/* Is told of the cookies of what has died. May be NULL. */
	void (*on_death)(uint64_t cookie);
};

/* What goes out; object: NULL or one more. */
struct parcel {
	const void *data;
	size_t size;
	const struct flat_binder_object *object;
};

/* Handles a message; answers it by conn_reply() unless it is oneway. */
typedef void (*handler)(struct conn *conn, struct message *message);

/* A device of its own, in the binderfs at /dev/binderfs. 0 or -1. */
int device_create(const char *name, char *path, size_t size);
void device_remove(const char *path);

/* Opens and maps; -1 with errno. */
int device_open(const char *path);

void conn_init(struct conn *conn, int fd);
/*
 * 0: *answer is the reply, to be released by conn_free(); else the driver's
 * BR_* code, or -1 with errno. Calls of handle are made meanwhile.
 */
int conn_call(struct conn *conn, uint32_t handle, uint32_t code, uint32_t flags,
	      const struct parcel *parcel, struct message *answer,
	      handler handle_nested);
void conn_reply(struct conn *conn, const struct parcel *parcel);
/* Frees the buffer of a message, with the next thing that is written. */
void conn_free(struct conn *conn, const struct message *message);
/* Writes what has not been written. */
void conn_flush(struct conn *conn);
/* From now on the thread serves as well. */
void conn_enter(struct conn *conn);
void conn_acquire(struct conn *conn, uint32_t handle);
void conn_release(struct conn *conn, uint32_t handle);
void conn_request_death(struct conn *conn, uint32_t handle, uint64_t cookie);
/* Reads what the driver has to say within ms, other than transactions. */
void conn_hear(struct conn *conn, int ms);
/* Serves one message. -1: the driver says so. */
int conn_serve_one(struct conn *conn, handler handle);
/* Serves for ever. -1: the driver says so. */
int conn_serve(struct conn *conn, handler handle);

#endif
