// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <linux/android/binderfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "binder.h"

#define BUFFERS (1 << 20)

int device_create(const char *name, char *path, size_t size)
{
	struct binderfs_device device = { 0 };
	int fd = open("/dev/binderfs/binder-control", O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -1;
	snprintf(device.name, sizeof(device.name), "%s", name);
	ret = ioctl(fd, BINDER_CTL_ADD, &device);
	close(fd);
	if (ret)
		return -1;
	snprintf(path, size, "/dev/binderfs/%s", name);
	return chmod(path, 0666);
}

void device_remove(const char *path)
{
	unlink(path);
}

int device_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -1;
	if (mmap(NULL, BUFFERS, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, fd, 0) ==
	    MAP_FAILED) {
		close(fd);
		return -1;
	}
	return fd;
}

void conn_init(struct conn *conn, int fd)
{
	memset(conn, 0, sizeof(*conn));
	conn->fd = fd;
}

static void put(struct conn *conn, const void *data, size_t size)
{
	if (conn->out_size + size > sizeof(conn->out))
		abort();
	memcpy(conn->out + conn->out_size, data, size);
	conn->out_size += size;
}

static void put_command(struct conn *conn, uint32_t command)
{
	put(conn, &command, sizeof(command));
}

/* Writes, and reads if there is nothing left. */
static int talk(struct conn *conn, int read)
{
	struct binder_write_read bwr = {
		.write_size = conn->out_size,
		.write_buffer = (uintptr_t)conn->out,
	};

	if (read) {
		bwr.read_size = sizeof(conn->in);
		bwr.read_buffer = (uintptr_t)conn->in;
	}
	while (ioctl(conn->fd, BINDER_WRITE_READ, &bwr)) {
		if (errno != EINTR)
			return -1;
		conn->eintr++;
	}
	conn->out_size = 0;
	if (read) {
		conn->in_pos = 0;
		conn->in_size = bwr.read_consumed;
	}
	return 0;
}

void conn_flush(struct conn *conn)
{
	if (conn->out_size)
		talk(conn, 0);
}

static void get(struct conn *conn, void *data, size_t size)
{
	if (conn->in_pos + size > conn->in_size)
		abort();
	if (data)
		memcpy(data, conn->in + conn->in_pos, size);
	conn->in_pos += size;
}

static int next_command(struct conn *conn, uint32_t *command)
{
	while (conn->in_pos == conn->in_size)
		if (talk(conn, 1))
			return -1;
	get(conn, command, sizeof(*command));
	return 0;
}

static void get_message(struct conn *conn, struct message *message)
{
	const struct binder_transaction_data *head = &message->head;

	memset(message, 0, sizeof(*message));
	get(conn, &message->head, sizeof(*head));
	message->data = (const void *)(uintptr_t)head->data.ptr.buffer;
	message->size = head->data_size;
	if (head->offsets_size == sizeof(binder_size_t)) {
		binder_size_t offset =
			*(binder_size_t *)(uintptr_t)head->data.ptr.offsets;

		message->has_object = 1;
		memcpy(&message->object, message->data + offset,
		       sizeof(message->object));
		message->size = offset;
	}
}

/* What the driver wants to know, and what it only wants to say. */
static void acknowledge(struct conn *conn, uint32_t command)
{
	struct binder_ptr_cookie object;
	uint32_t done = command == BR_INCREFS ? BC_INCREFS_DONE :
						BC_ACQUIRE_DONE;

	if (command == BR_DEAD_BINDER) {
		uint64_t cookie;

		get(conn, &cookie, sizeof(cookie));
		if (conn->on_death)
			conn->on_death(cookie);
		put_command(conn, BC_DEAD_BINDER_DONE);
		put(conn, &cookie, sizeof(cookie));
		return;
	}
	conn->released += command == BR_RELEASE;
	if (command != BR_INCREFS && command != BR_ACQUIRE) {
		get(conn, NULL, _IOC_SIZE(command));
		return;
	}
	get(conn, &object, sizeof(object));
	put_command(conn, done);
	put(conn, &object, sizeof(object));
}

void conn_free(struct conn *conn, const struct message *message)
{
	put_command(conn, BC_FREE_BUFFER);
	put(conn, &message->head.data.ptr.buffer, sizeof(binder_uintptr_t));
}

void conn_enter(struct conn *conn)
{
	put_command(conn, BC_ENTER_LOOPER);
	conn_flush(conn);
}

void conn_acquire(struct conn *conn, uint32_t handle)
{
	put_command(conn, BC_ACQUIRE);
	put(conn, &handle, sizeof(handle));
}

void conn_release(struct conn *conn, uint32_t handle)
{
	put_command(conn, BC_RELEASE);
	put(conn, &handle, sizeof(handle));
}

void conn_request_death(struct conn *conn, uint32_t handle, uint64_t cookie)
{
	struct binder_handle_cookie request = { .handle = handle,
						.cookie = cookie };

	put_command(conn, BC_REQUEST_DEATH_NOTIFICATION);
	put(conn, &request, sizeof(request));
}

/* The driver copies all of it when the command is written: at once. */
static int send_parcel(struct conn *conn, uint32_t command,
		       struct binder_transaction_data *head,
		       const struct parcel *parcel, int read)
{
	uint8_t data[72 << 10];
	binder_size_t offset = (parcel->size + 7) & ~7UL;

	if (offset + sizeof(*parcel->object) > sizeof(data))
		abort();
	memcpy(data, parcel->data, parcel->size);
	head->data_size = parcel->size;
	head->data.ptr.buffer = (uintptr_t)data;
	if (parcel->object) {
		memcpy(data + offset, parcel->object, sizeof(*parcel->object));
		head->data_size = offset + sizeof(*parcel->object);
		head->offsets_size = sizeof(offset);
		head->data.ptr.offsets = (uintptr_t)&offset;
	}
	put_command(conn, command);
	put(conn, head, sizeof(*head));
	return talk(conn, read);
}

void conn_reply(struct conn *conn, const struct parcel *parcel)
{
	struct binder_transaction_data head = { 0 };

	send_parcel(conn, BC_REPLY, &head, parcel, 1);
}

int conn_call(struct conn *conn, uint32_t handle, uint32_t code, uint32_t flags,
	      const struct parcel *parcel, struct message *answer,
	      handler handle_nested)
{
	struct binder_transaction_data head = {
		.target.handle = handle, .code = code, .flags = flags,
	};
	struct message nested;
	uint32_t command;

	/* What came with the last thing that was read. */
	while (conn->in_pos != conn->in_size) {
		get(conn, &command, sizeof(command));
		if (command == BR_REPLY ||
		    (command == BR_TRANSACTION && !handle_nested))
			abort();
		if (command == BR_TRANSACTION) {
			/* Within a call that has failed in the meantime. */
			get_message(conn, &nested);
			handle_nested(conn, &nested);
		} else {
			acknowledge(conn, command);
		}
	}
	if (send_parcel(conn, BC_TRANSACTION, &head, parcel, 1))
		return -1;
	for (;;) {
		if (next_command(conn, &command))
			return -1;
		switch (command) {
		case BR_REPLY:
			get_message(conn, answer);
			return 0;
		case BR_TRANSACTION_COMPLETE:
			if (flags & TF_ONE_WAY)
				return 0;
			break;
		case BR_DEAD_REPLY:
		case BR_FAILED_REPLY:
			return command;
		case BR_TRANSACTION:
			get_message(conn, &nested);
			handle_nested(conn, &nested);
			break;
		default:
			acknowledge(conn, command);
		}
	}
}

static int serve(struct conn *conn, handler handle, int once)
{
	struct message message;
	uint32_t command;

	put_command(conn, BC_ENTER_LOOPER);
	for (;;) {
		if (next_command(conn, &command))
			return -1;
		if (command != BR_TRANSACTION) {
			acknowledge(conn, command);
			continue;
		}
		get_message(conn, &message);
		handle(conn, &message);
		if (once)
			break;
	}
	conn_flush(conn);
	return 0;
}

void conn_hear(struct conn *conn, int ms)
{
	struct pollfd p = { .fd = conn->fd, .events = POLLIN };
	uint32_t command;

	conn_enter(conn);
	if (poll(&p, 1, ms) != 1 || talk(conn, 1))
		return;
	while (conn->in_pos != conn->in_size) {
		get(conn, &command, sizeof(command));
		acknowledge(conn, command);
	}
	conn_flush(conn);
}

int conn_serve_one(struct conn *conn, handler handle)
{
	return serve(conn, handle, 1);
}

int conn_serve(struct conn *conn, handler handle)
{
	return serve(conn, handle, 0);
}
