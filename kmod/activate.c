// SPDX-License-Identifier: GPL-2.0
/*
 * Making another record active, and standing still for a copy.
 *
 * The rule is that two records never execute user code at the same time. To
 * keep it, control publishes the new active record and kicks every thread,
 * that is, puts work on its list and sets TIF_NOTIFY_SIGNAL. From then on:
 *
 *  - A thread that is in the kernel, running or not, cannot get to user mode
 *    without running the work: the exit path tests the flag with interrupts
 *    off, after its last chance to schedule, and starts over if it is set.
 *
 *  - A thread that is not on a CPU is in the kernel. If it was preempted in
 *    user mode, it sits in the exit path of that interrupt, and the same holds.
 *    Reading task->on_cpu as 0 after setting the flag (a full barrier) is
 *    proof: the context switch that puts it on a CPU is a full barrier too.
 *
 *  - A thread that is on another CPU may be in user mode. corsa_sync_cpus()
 *    interrupts these CPUs and waits. If the interrupt found the thread in user
 *    mode, its return runs the exit path, which sees the flag. If it came
 *    between the flag test and the return to user mode, then interrupts were
 *    off there, and it hits before or at the first user instruction.
 *
 * So after kicking and corsa_sync_cpus(), without any thread having been
 * scheduled, nobody executes user code of the former record. Only threads that
 * became the new record meanwhile could have overlapped with them: these wait
 * at session->fence, which is a matter of microseconds, as control does not
 * sleep while it is up.
 *
 * One exception: a thread that waits in vfork() lends its mm to a child, which
 * is another process and does run. Such threads are always waited for.
 *
 * What a LAZY switch leaves open is not user code but the system calls in which
 * the other threads slept: summon.c says which of them are called, and which
 * are waited for. The rest is called when there is nothing better to do, by a
 * kernel thread of the idle class, or after ten milliseconds: time that passes,
 * and signals that only the new record takes, wait no longer than that.
 */
#include <linux/kthread.h>
#include <linux/preempt.h>
#include <linux/rculist.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <uapi/linux/sched/types.h>

#include "activate.h"
#include "record.h"
#include "refuse.h"
#include "session.h"
#include "still.h"
#include "summon.h"
#include "thread.h"

static struct kthread_worker *sweeper;

static void nothing(void *unused)
{
}

/* Preemption is off. */
static void corsa_sync_cpus(struct corsa_session *session)
{
	struct corsa_thread *thread;

	cpumask_clear(session->cpus);
	rcu_read_lock();
	list_for_each_entry_rcu(thread, &session->threads, link)
		if (!READ_ONCE(thread->parked) && READ_ONCE(thread->task->on_cpu))
			cpumask_set_cpu(task_cpu(thread->task), session->cpus);
	rcu_read_unlock();
	smp_call_function_many(session->cpus, nothing, NULL, true);
}

void corsa_forget_awaited(struct corsa_session *session,
			  struct corsa_record *last)
{
	struct corsa_thread *thread;

	spin_lock(&session->lock);
	session->last = last;
	session->awaited = 0;
	list_for_each_entry(thread, &session->threads, link)
		thread->awaited = false;
	spin_unlock(&session->lock);
}

/* The session is held for each that is queued. */
static void queue_sweep(struct corsa_session *session, enum corsa_manner manner)
{
	corsa_session_get(session);
	if (!queue_delayed_work(corsa_workqueue, &session->later,
				msecs_to_jiffies(10)))
		corsa_session_put(session);
	/* The gate may switch with every transaction: not for each of them. */
	if (manner == CORSA_FOR_GATE)
		return;
	corsa_session_get(session);
	if (!kthread_queue_work(sweeper, &session->sweep))
		corsa_session_put(session);
}

/* The part that does not sleep: see the top of the file. */
void corsa_redirect(struct corsa_session *session, struct corsa_record *to,
		    bool held, enum corsa_manner manner)
{
	bool left;

	preempt_disable();
	spin_lock(&session->lock);
	if (session->active)
		corsa_note_recent_locked(session->active);
	/* It may have crashed while control waited. */
	if (to && !corsa_record_runnable(to))
		to = NULL;
	session->active = to;
	session->held = held && to;
	if (to)
		session->last = to;
	atomic_inc(&session->fence);
	left = corsa_summon_locked(session, to, manner);
	spin_unlock(&session->lock);
	corsa_sync_cpus(session);
	atomic_dec(&session->fence);
	preempt_enable();
	wake_up_all(&session->parked);
	if (left && to)
		queue_sweep(session, manner);
}

void corsa_activate_redirected(struct corsa_session *session)
{
	corsa_threads_kick(session);
	/* All CPUs: it is rare, and the mask of this session is control's. */
	smp_call_function(nothing, NULL, true);
	atomic_dec(&session->fence);
	preempt_enable();
	wake_up_all(&session->parked);
}

static void sweep(struct corsa_session *session)
{
	struct corsa_thread *thread;

	spin_lock(&session->lock);
	list_for_each_entry(thread, &session->threads, link)
		if (!thread->parked && thread->cur != session->active)
			corsa_thread_kick(thread);
	spin_unlock(&session->lock);
	corsa_session_put(session);
}

void corsa_activate_sweep(struct kthread_work *work)
{
	sweep(container_of(work, struct corsa_session, sweep));
}

void corsa_activate_sweep_later(struct work_struct *work)
{
	sweep(container_of(to_delayed_work(work), struct corsa_session, later));
}

int corsa_activate_init(void)
{
	const struct sched_attr idle = {
		.size = sizeof(idle),
		.sched_policy = SCHED_IDLE,
	};
	int ret;

	sweeper = kthread_create_worker(0, "corsa_sweep");
	if (IS_ERR(sweeper))
		return PTR_ERR(sweeper);
	ret = sched_setattr_nocheck(sweeper->task, &idle);
	if (ret)
		kthread_destroy_worker(sweeper);
	return ret;
}

void corsa_activate_exit(void)
{
	kthread_destroy_worker(sweeper);
}

int corsa_await(struct corsa_session *session, long timeout)
{
	long ret;

	if (!READ_ONCE(session->awaited))
		return READ_ONCE(session->over) ? -ESRCH : 0;
	ret = wait_event_killable_timeout(session->waiting,
					  !READ_ONCE(session->awaited) ||
					  READ_ONCE(session->over), timeout);
	if (READ_ONCE(session->over))
		return -ESRCH;
	if (ret > 0)
		return 0;
	spin_lock(&session->lock);
	session->stats.sum.timeouts++;
	spin_unlock(&session->lock);
	return ret ? -EINTR : -EBUSY;
}

int corsa_switch(struct corsa_session *session, struct corsa_record *to,
		 bool held, enum corsa_manner manner, long timeout)
{
	struct corsa_record *former = session->active;
	struct corsa_record *last = session->last;
	bool was_held = session->held;
	int ret;

	corsa_redirect(session, to, held, held ? CORSA_ALL : manner);
	ret = corsa_await(session, timeout);
	if (ret && ret != -ESRCH) {
		corsa_redirect(session, former, was_held, CORSA_LAZY);
		corsa_forget_awaited(session, last);
	}
	return ret;
}

int corsa_switch_for_gate(struct corsa_session *session,
			  struct corsa_record *to, long timeout)
{
	u64 begin = ktime_get_ns();
	int ret;

	if (to != session->active && corsa_refuse_switch(session, to))
		return -EOPNOTSUPP;
	ret = corsa_switch(session, to, false, CORSA_FOR_GATE, timeout);
	if (ret)
		return ret;
	spin_lock(&session->lock);
	session->stats.sum.activations++;
	corsa_stats_add_locked(session, CORSA_HIST_ACTIVATE,
			       ktime_get_ns() - begin);
	spin_unlock(&session->lock);
	return 0;
}

long corsa_activate(struct corsa_session *session, struct corsa_activate *args)
{
	bool held = args->flags & CORSA_ACTIVATE_HOLD;
	enum corsa_manner manner = args->flags & CORSA_ACTIVATE_LAZY ?
					   CORSA_LAZY : CORSA_ALL;
	u64 begin = ktime_get_ns();
	struct corsa_record *to = NULL;
	long timeout = CORSA_PATIENCE;
	int ret;

	if (args->flags & ~CORSA_ACTIVATE_F_ALL || args->reserved)
		return -EINVAL;
	if (args->id == CORSA_NONE) {
		if (held)
			return -EINVAL;
	} else {
		to = corsa_record_find(session, args->id);
		if (IS_ERR(to))
			return PTR_ERR(to);
		if (!corsa_record_runnable(to))
			return -EINVAL;
	}
	if (to != session->active || held != session->held) {
		if (to != session->active && corsa_refuse_switch(session, to))
			return -EOPNOTSUPP;
		if (args->flags & CORSA_ACTIVATE_BOUNDARY) {
			ret = corsa_park_at_boundary(session, args->timeout_ns,
						     manner);
			if (ret)
				return ret;
		} else if (args->timeout_ns) {
			timeout = nsecs_to_jiffies(args->timeout_ns) + 1;
		}
		if (to != session->active || held != session->held) {
			ret = corsa_switch(session, to, held, manner, timeout);
			if (ret)
				return ret;
		}
	}
	args->ns = ktime_get_ns() - begin;
	spin_lock(&session->lock);
	session->stats.sum.activations++;
	corsa_stats_add_locked(session, CORSA_HIST_ACTIVATE, args->ns);
	spin_unlock(&session->lock);
	return 0;
}
