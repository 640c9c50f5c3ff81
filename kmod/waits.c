// SPDX-License-Identifier: GPL-2.0
/* Which system calls take something when what they wait for has come. */
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/rcupdate.h>
#include <linux/sched/task_stack.h>

#include <asm/unistd.h>

#include "record.h"
#include "symbols.h"
#include "thread.h"
#include "waits.h"

static const struct file_operations *signalfd_operations;

/* Pending signals are of the process and its threads, not of a record. */
static bool reads_signals(struct corsa_thread *thread, unsigned int fd)
{
	struct file *file;
	bool ret;

	rcu_read_lock();
	/* The record has its table; the file is only compared. */
	file = files_lookup_fd_raw(thread->cur->files, fd);
	ret = file && READ_ONCE(file->f_op) == signalfd_operations;
	rcu_read_unlock();
	return ret;
}

enum corsa_waits corsa_waits_for(struct corsa_thread *thread)
{
	const struct pt_regs *regs = task_pt_regs(thread->task);

	/* It was interrupted in user mode, or in the fault of an instruction. */
	if ((long)READ_ONCE(regs->orig_ax) < 0)
		return CORSA_WAITS_TO_TAKE;
	switch ((long)READ_ONCE(regs->orig_ax)) {
	case __NR_poll:
	case __NR_ppoll:
	case __NR_select:
	case __NR_pselect6:
	case __NR_epoll_wait:
	case __NR_epoll_pwait:
	case __NR_epoll_pwait2:
	case __NR_futex:
	case __NR_futex_waitv:
	case __NR_nanosleep:
	case __NR_clock_nanosleep:
	case __NR_restart_syscall: /* one of those above */
	/* Signals are taken on the way to user mode, after our work. */
	case __NR_pause:
	case __NR_rt_sigsuspend:
		return CORSA_WAITS_TO_LOOK;
	case __NR_read:
	case __NR_readv:
		return reads_signals(thread, regs->di) ?
			       CORSA_WAITS_TO_TAKE_SHARED : CORSA_WAITS_TO_TAKE;
	case __NR_recvfrom:
	case __NR_recvmsg:
	case __NR_recvmmsg:
	case __NR_accept:
	case __NR_accept4:
	case __NR_write:
	case __NR_writev:
	case __NR_sendto:
	case __NR_sendmsg:
	case __NR_connect:
		return CORSA_WAITS_TO_TAKE;
	}
	/* Pending signals, children, Binder, or something that we do not know. */
	return CORSA_WAITS_TO_TAKE_SHARED;
}

int corsa_waits_init(void)
{
	signalfd_operations = (void *)corsa_symbols_find("signalfd_fops");
	if (signalfd_operations)
		return 0;
	pr_err("corsa: this kernel has no symbol signalfd_fops\n");
	return -ENOENT;
}
