// SPDX-License-Identifier: GPL-2.0
/* What a system call looks like that was interrupted by our kick alone. */
#include <linux/errno.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>

#include <uapi/linux/android/binder.h>

#include <asm/unistd.h>

#include "swap.h"

/*
 * Binder's driver has written down how far it got by then, in the structure
 * that it takes up again.
 */
bool corsa_reads_binder(const struct pt_regs *regs)
{
	return regs->orig_ax == __NR_ioctl && (u32)regs->si == BINDER_WRITE_READ;
}

/*
 * Most calls return -ERESTART* when they are woken for work, and the kernel
 * starts them again. These return EINTR for good, on the assumption that there
 * is a handler to run. None has done anything by then: it is safe to start
 * them again. Relative timeouts start from the beginning.
 */
static bool restartable(const struct pt_regs *regs)
{
	switch (regs->orig_ax) {
	case __NR_epoll_wait:
	case __NR_epoll_pwait:
	case __NR_epoll_pwait2:
	case __NR_semop:
	case __NR_semtimedop:
	case __NR_rt_sigtimedwait:
	/* Sockets with SO_RCVTIMEO or SO_SNDTIMEO: */
	case __NR_read:
	case __NR_readv:
	case __NR_recvfrom:
	case __NR_recvmsg:
	case __NR_recvmmsg:
	case __NR_write:
	case __NR_writev:
	case __NR_sendto:
	case __NR_sendmsg:
	case __NR_accept:
	case __NR_accept4:
	case __NR_connect:
		return true;
	case __NR_ioctl:
		return corsa_reads_binder(regs);
	}
	return false;
}

bool corsa_hide_eintr(void)
{
	struct pt_regs *regs = task_pt_regs(current);

	if ((long)regs->orig_ax < 0 || (long)regs->ax != -EINTR ||
	    !restartable(regs))
		return false;
	/*
	 * With a signal after all it is EINTR if there is a handler. But the
	 * signal may go to another record, and then this one has seen nothing.
	 */
	regs->ax = -ERESTARTNOHAND;
	return true;
}

bool corsa_at_boundary(void)
{
	struct pt_regs *regs = task_pt_regs(current);

	if ((long)regs->orig_ax < 0)
		return false;
	switch ((long)regs->ax) {
	case -ERESTARTSYS:
	case -ERESTARTNOINTR:
	case -ERESTARTNOHAND:
	case -ERESTART_RESTARTBLOCK:
		return true;
	}
	return false;
}
