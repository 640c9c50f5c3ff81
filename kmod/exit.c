// SPDX-License-Identifier: GPL-2.0
/*
 * exit() and exit_group().
 *
 * exit(): a thread that ends in one instance may live in others, and a thread
 * cannot be made again under its old tid. So it is held: what its end means to
 * the instance is done (joiners are woken, robust mutexes are released), then
 * it waits until an instance is active that has it.
 *
 * exit_group() is the end of the instance, see crash.c.
 *
 * Probes at the entry of both system calls send tracked threads here instead.
 * They cannot return to their caller: that may have been compiled in the
 * knowledge that they do not (since 6.11 it is). So they either do what the
 * system call does, or leave for user mode straight away, by the way on which
 * our task_work finds them.
 */
#include <linux/kprobes.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>

#include <asm/cpufeature.h>

#include "crash.h"
#include "exit.h"
#include "record.h"
#include "session.h"
#include "swap.h"
#include "symbols.h"
#include "thread.h"

static void __noreturn leave_kernel(struct corsa_thread *thread)
{
	/* Nothing of user space is touched before the work has run. */
	current->rseq = NULL;
	corsa_thread_kick(thread);
	corsa_return_to_user(
		task_pt_regs(current),
		static_call_query(corsa_syscall_exit_to_user_mode),
		static_call_query(
			corsa_swapgs_restore_regs_and_return_to_usermode));
	BUG();
}

/* The thread is on the lists, as it is running: no reference needed. */
static struct corsa_thread *current_thread(void)
{
	struct corsa_thread *thread;

	rcu_read_lock();
	thread = corsa_thread_of(current);
	rcu_read_unlock();
	return thread;
}

static bool lives_elsewhere(struct corsa_thread *thread)
{
	struct corsa_session *session = thread->session;
	bool ret;

	spin_lock(&session->lock);
	ret = !thread->gone && !session->over && !session->parting &&
	      thread->copies > 1;
	spin_unlock(&session->lock);
	return ret;
}

/*
 * Ends the thread in the record that it is in. Not inlined: what has variables
 * on the stack that KASAN watches has to return before the stack is given up.
 */
static noinline bool hold(struct corsa_thread *thread, int code)
{
	struct corsa_session *session = thread->session;
	struct corsa_state *state;
	struct corsa_event event = {
		.type = CORSA_EVENT_THREAD_EXIT,
		.next = CORSA_NONE,
		.tid = task_pid_nr(current),
		.code = code,
	};

	if (!lives_elsewhere(thread))
		return false;
	corsa_call(exec_mm_release)(current, current->mm);
	current->robust_list = NULL;
	spin_lock(&session->lock);
	event.id = thread->cur->id;
	state = corsa_thread_erase_locked(thread);
	session->stats.sum.threads_held++;
	spin_unlock(&session->lock);
	corsa_state_free(state);
	corsa_events_add(&session->events, event);
	return true;
}

static void __noreturn exit_thread_entry(const struct pt_regs *unused)
{
	struct corsa_thread *thread = current_thread();
	int code = task_pt_regs(current)->di;

	if (thread && hold(thread, code))
		leave_kernel(thread);
	corsa_call(do_exit)((code & 0xff) << 8);
	BUG();
}

static void __noreturn exit_group_entry(const struct pt_regs *unused)
{
	struct corsa_thread *thread = current_thread();
	int code = task_pt_regs(current)->di;

	if (thread && corsa_crash_exit(thread, code & 0xff))
		leave_kernel(thread);
	corsa_call(do_group_exit)((code & 0xff) << 8);
	BUG();
}

/* In the kprobe nothing is decided: it may run with interrupts off. */
static int redirect(struct pt_regs *regs, void *entry)
{
	struct corsa_thread *thread;
	bool ours;

	rcu_read_lock();
	thread = corsa_thread_of(current);
	ours = thread && !READ_ONCE(thread->session->over);
	rcu_read_unlock();
	if (!ours)
		return 0;
	instruction_pointer_set(regs, (unsigned long)entry);
	return 1;
}

static int before_exit(struct kprobe *probe, struct pt_regs *regs)
{
	return redirect(regs, exit_thread_entry);
}

static int before_exit_group(struct kprobe *probe, struct pt_regs *regs)
{
	return redirect(regs, exit_group_entry);
}

/* A probe that changes the instruction pointer must have one. */
static void after(struct kprobe *probe, struct pt_regs *regs,
		  unsigned long flags)
{
}

static struct kprobe exit_probe = {
	.symbol_name = "__x64_sys_exit",
	.pre_handler = before_exit,
	.post_handler = after,
};

static struct kprobe exit_group_probe = {
	.symbol_name = "__x64_sys_exit_group",
	.pre_handler = before_exit_group,
	.post_handler = after,
};

bool corsa_exit_supported(void)
{
#ifdef X86_FEATURE_FRED
	if (boot_cpu_has(X86_FEATURE_FRED))
		return false;
#endif
	return !boot_cpu_has(X86_FEATURE_XENPV);
}

int corsa_exit_init(void)
{
	int ret;

	if (!corsa_exit_supported())
		return 0;
	ret = register_kprobe(&exit_probe);
	if (ret) {
		pr_err("corsa: cannot probe exit(): %d\n", ret);
		return ret;
	}
	ret = register_kprobe(&exit_group_probe);
	if (ret) {
		pr_err("corsa: cannot probe exit_group(): %d\n", ret);
		unregister_kprobe(&exit_probe);
	}
	return ret;
}

void corsa_exit_exit(void)
{
	if (!corsa_exit_supported())
		return;
	unregister_kprobe(&exit_group_probe);
	unregister_kprobe(&exit_probe);
}
