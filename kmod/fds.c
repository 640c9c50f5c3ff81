// SPDX-License-Identifier: GPL-2.0
/*
 * Editing a dormant record's descriptors.
 *
 * The kernel's functions work on the table of the calling thread, so the caller
 * borrows that of the record. The caller's own is safe meanwhile: it keeps its
 * reference, and no system call of this thread looks at it before it is back.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/eventpoll.h>
#include <linux/file.h>
#include <linux/sched/task.h>
#include <linux/uaccess.h>

#include "fds.h"
#include "record.h"
#include "session.h"
#include "still.h"
#include "symbols.h"

static struct files_struct *borrow(struct files_struct *files)
{
	struct files_struct *own = current->files;

	task_lock(current);
	current->files = files;
	task_unlock(current);
	return own;
}

static int epoll_new(int fd, unsigned int flags)
{
	struct pt_regs regs = { .di = flags };
	struct file *file;
	long lowest;
	int ret;

	lowest = corsa_call(__x64_sys_epoll_create1)(&regs);
	if (lowest < 0 || lowest == fd)
		return lowest < 0 ? lowest : 0;
	file = fget(lowest);
	ret = file ? corsa_call(replace_fd)(fd, file, flags) : -EBADF;
	if (file)
		fput(file);
	close_fd(lowest);
	return ret < 0 ? ret : 0;
}

static int epoll_change(const struct corsa_fd_op *op, int how)
{
	struct epoll_event event = {
		.events = (__force __poll_t)op->events,
		.data = op->data,
	};

	return corsa_call(do_epoll_ctl)(op->src, how, op->fd, &event, false);
}

static int put_file(const struct corsa_fd_op *op, struct file *file,
		    unsigned int flags)
{
	int ret;

	if (!file)
		return -EBADF;
	ret = corsa_call(replace_fd)(op->fd, file, flags);
	fput(file);
	return ret < 0 ? ret : 0;
}

static int apply(struct corsa_record *record, const struct corsa_fd_op *op)
{
	unsigned int flags = op->flags & CORSA_FD_CLOEXEC ? O_CLOEXEC : 0;
	struct files_struct *own;
	struct file *file = NULL;
	int ret = -EINVAL;

	if (op->flags & ~CORSA_FD_F_ALL || op->reserved)
		return -EINVAL;
	if (op->fd < 0)
		return -EBADF;
	if (op->op == CORSA_FD_INSTALL)
		file = fget_raw(op->src);
	own = borrow(record->files);
	switch (op->op) {
	case CORSA_FD_INSTALL:
		ret = put_file(op, file, flags);
		break;
	case CORSA_FD_DUP:
		ret = op->src == op->fd ? -EINVAL :
					  put_file(op, fget_raw(op->src), flags);
		break;
	case CORSA_FD_CLOSE:
		ret = close_fd(op->fd);
		break;
	case CORSA_FD_EPOLL_NEW:
		ret = epoll_new(op->fd, flags);
		break;
	case CORSA_FD_EPOLL_ADD:
		ret = epoll_change(op, EPOLL_CTL_ADD);
		break;
	case CORSA_FD_EPOLL_DEL:
		ret = epoll_change(op, EPOLL_CTL_DEL);
		break;
	}
	borrow(own);
	return ret;
}

long corsa_fds(struct corsa_session *session, struct corsa_fds *args)
{
	const struct corsa_fd_op __user *ops = u64_to_user_ptr(args->ops);
	struct corsa_record *record = corsa_record_find(session, args->id);
	struct corsa_fd_op op;
	int ret;

	args->done = 0;
	if (IS_ERR(record))
		return PTR_ERR(record);
	if (args->count > CORSA_FDS_MAX)
		return -EINVAL;
	if (record == session->active)
		return -EBUSY;
	/* A standby may be called upon at any time; frozen, it has to wait. */
	ret = corsa_freeze(record);
	if (ret)
		return ret;
	for (; !ret && args->done < args->count; args->done += !ret) {
		if (copy_from_user(&op, &ops[args->done], sizeof(op)))
			ret = -EFAULT;
		else
			ret = apply(record, &op);
	}
	corsa_thaw(record);
	return ret;
}

long corsa_getfd(struct corsa_session *session, const struct corsa_getfd *args)
{
	struct corsa_record *record = corsa_record_find(session, args->id);
	struct files_struct *own;
	struct file *file;
	int fd;

	if (IS_ERR(record))
		return PTR_ERR(record);
	if (args->reserved)
		return -EINVAL;
	if (args->fd < 0)
		return -EBADF;
	own = borrow(record->files);
	file = fget_raw(args->fd);
	borrow(own);
	if (!file)
		return -EBADF;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		fput(file);
	else
		fd_install(fd, file);
	return fd;
}
