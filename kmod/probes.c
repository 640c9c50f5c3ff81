// SPDX-License-Identifier: GPL-2.0
/*
 * Tracepoints that tell us what happens to threads. They run in the context of
 * the thread that does it, with preemption off, for every process of the
 * system: those that are not ours must get away quickly.
 */
#include <linux/binfmts.h>
#include <linux/sched/signal.h>
#include <linux/tracepoint.h>

#include "crash.h"
#include "duplicate.h"
#include "probes.h"
#include "record.h"
#include "session.h"
#include "thread.h"

static void on_signal(void *unused, int signo, struct kernel_siginfo *info,
		      struct task_struct *task, int group, int result)
{
	/* Sent by others it is a kill, not a crash. */
	if (task == current)
		corsa_crash_generated(signo, info);
}

/* The parent's own record; it is in the kernel, so it stays there. */
static void thread_born(struct corsa_thread *parent, struct task_struct *task)
{
	struct corsa_session *session = parent->session;
	struct corsa_event event = {
		.type = CORSA_EVENT_THREAD_NEW,
		.id = parent->cur->id,
		.next = CORSA_NONE,
		.tid = task_pid_nr(task),
	};
	struct corsa_thread *thread;

	if (corsa_thread_add(session, parent->cur, task, GFP_ATOMIC)) {
		/*
		 * It would run whatever instance is active. The process
		 * cannot be held together any longer.
		 */
		pr_err("corsa: no memory to follow thread %d: ending process %d\n",
		       task_pid_nr(task), task_tgid_nr(task));
		send_sig(SIGKILL, session->leader, 1);
		return;
	}
	thread = corsa_thread_of(task);
	if (thread)
		corsa_thread_kick(thread);
	corsa_events_add(&session->events, event);
}

/* After the child has been linked, before it can run. */
static void on_birth(void *unused, struct task_struct *child,
		     unsigned long clone_flags)
{
	struct task_struct *parent = current;
	struct corsa_thread *thread;

	corsa_duplicate_born(parent, child);
	rcu_read_lock();
	thread = corsa_thread_of(parent);
	if (thread && clone_flags & CLONE_THREAD) {
		thread_born(thread, child);
	} else if (thread && clone_flags & CLONE_VM) {
		spin_lock(&thread->session->lock);
		if (clone_flags & CLONE_VFORK)
			thread->lends_mm = true;
		else
			thread->session->foreign = true;
		spin_unlock(&thread->session->lock);
	}
	rcu_read_unlock();
}

/* After exit_mm(): the thread has let go of the memory. */
static void on_exit(void *unused, struct task_struct *task)
{
	bool last = atomic_read(&task->signal->live) == 0;
	struct corsa_session *session = NULL;
	struct corsa_thread *thread;

	rcu_read_lock();
	thread = corsa_thread_of(task);
	if (last) {
		session = corsa_session_of(task);
		if (session)
			corsa_session_get(session);
	}
	if (thread)
		corsa_thread_died(thread, last);
	rcu_read_unlock();
	if (session) {
		corsa_session_over(session, CORSA_EVENT_EXITED);
		corsa_session_put(session);
	}
}

static void on_exec(void *unused, struct task_struct *task, pid_t old_pid,
		    struct linux_binprm *program)
{
	struct corsa_session *session;

	rcu_read_lock();
	session = corsa_session_of(task);
	if (session)
		corsa_session_get(session);
	rcu_read_unlock();
	if (session) {
		corsa_session_over(session, CORSA_EVENT_EXEC);
		corsa_session_put(session);
	}
}

static struct probe {
	const char *name;
	void *function;
	struct tracepoint *point;
	bool registered;
} probes[] = {
	{ "signal_generate", on_signal },
	{ "task_newtask", on_birth },
	{ "sched_process_exit", on_exit },
	{ "sched_process_exec", on_exec },
};

static void match(struct tracepoint *point, void *unused)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(probes); i++)
		if (!strcmp(point->name, probes[i].name))
			probes[i].point = point;
}

int corsa_probes_init(void)
{
	struct probe *probe;
	int ret = 0;

	for_each_kernel_tracepoint(match, NULL);
	for (probe = probes; probe < probes + ARRAY_SIZE(probes); probe++) {
		ret = probe->point ? tracepoint_probe_register(probe->point,
							       probe->function,
							       NULL) :
				     -ENOENT;
		if (ret) {
			pr_err("corsa: no tracepoint %s: %d\n", probe->name, ret);
			corsa_probes_exit();
			return ret;
		}
		probe->registered = true;
	}
	return 0;
}

void corsa_probes_exit(void)
{
	struct probe *probe;

	for (probe = probes; probe < probes + ARRAY_SIZE(probes); probe++) {
		if (probe->registered)
			tracepoint_probe_unregister(probe->point,
						    probe->function, NULL);
		probe->registered = false;
	}
	tracepoint_synchronize_unregister();
}
