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
 * the other threads slept: they are on their way out, in the former record.
 * It does not even wake all of them. Most threads of most programs only sleep;
 * to wake each one, so that it leaves a wait here and enters the same wait
 * there, is what a switch would spend its time on. A thread that is asleep, and
 * was idle when the new record was active last, is only marked: nothing wakes
 * it, but if something does, the rules above hold. It is called in when there
 * is nothing better to do, by a kernel thread of the idle class. It loses no
 * wakeup by that: system calls look at what they wait for when they restart.
 * And if the former record becomes active again soon, it has never left.
 */
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/preempt.h>
#include <linux/rculist.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/smp.h>
#include <uapi/linux/sched/types.h>

#include "activate.h"
#include "record.h"
#include "refuse.h"
#include "session.h"
#include "swap.h"
#include "symbols.h"
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

/* Which threads have to settle before the switch is complete? */
static void await_locked(struct corsa_session *session, bool lazy)
{
	struct corsa_thread *thread;
	bool wait;

	session->awaited = 0;
	list_for_each_entry(thread, &session->threads, link) {
		if (thread->gated)
			wait = false;
		else if (thread->parked)
			/* In the way of nobody; but HOLD has to move it. */
			wait = session->held && corsa_thread_judge_locked(
							thread) != CORSA_PARK;
		else
			wait = !lazy || thread->lends_mm;
		thread->awaited = wait;
		session->awaited += wait;
	}
}

static void forget_awaited(struct corsa_session *session,
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

/* Which thread of the record has run last? The same will the next time. */
static void note_recent_locked(struct corsa_record *record)
{
	struct corsa_thread *thread;
	u64 latest = 0;

	list_for_each_entry(thread, &record->session->threads, link) {
		u64 ran = READ_ONCE(thread->task->se.exec_start);

		if (thread->cur == record && !thread->parked && ran > latest) {
			latest = ran;
			record->recent = thread->index;
		}
	}
}

static bool asleep(struct corsa_thread *thread)
{
	return !READ_ONCE(thread->task->on_cpu) &&
	       READ_ONCE(thread->task->__state) & TASK_INTERRUPTIBLE;
}

static bool has_work(struct corsa_thread *thread, struct corsa_record *record)
{
	struct corsa_state *state;

	if (!record)
		return false;
	if (record->recent == thread->index)
		return true;
	state = corsa_thread_state(thread, record);
	return state && READ_ONCE(state->busy);
}

/* True if some were left asleep. */
static bool kick_lazily(struct corsa_session *session, struct corsa_record *to)
{
	struct corsa_thread *thread;
	bool left = false;

	rcu_read_lock();
	list_for_each_entry_rcu(thread, &session->threads, link) {
		if (READ_ONCE(thread->parked))
			continue;
		if (thread->lends_mm || !asleep(thread) ||
		    (thread->cur != to && has_work(thread, to))) {
			corsa_thread_kick(thread);
			continue;
		}
		corsa_thread_mark(thread);
		/* It may have woken up meanwhile: the CPUs are asked below. */
		left |= thread->cur != to;
	}
	rcu_read_unlock();
	return left;
}

/* Will the thread, when it becomes the record, go to wait in Binder's driver? */
static bool returns_to_binder(struct corsa_thread *thread,
			      struct corsa_record *record)
{
	struct corsa_state *state = corsa_thread_state(thread, record);

	return state && corsa_reads_binder(&state->regs) &&
	       (long)state->regs.ax < 0 && (long)state->regs.orig_ax >= 0;
}

enum gate_call { LEAVE_ASLEEP, CALL, CALL_AND_WAIT };

/*
 * A thread of another record must not take a transaction that is queued when
 * the switch is done. One that is asleep in the driver cannot: whatever wakes
 * it, it finds a signal pending before it looks for work. If it would come back
 * to the same place in the new record, to be woken for work is all that it
 * needs. One that runs may be about to look for work, and is waited for, unless
 * it is known to be on its way out.
 */
static enum gate_call choose_for_gate(struct corsa_thread *thread,
				      struct corsa_record *to, bool *idle)
{
	bool sleeps, waits, returns;

	*idle = false;
	if (thread->lends_mm)
		return CALL_AND_WAIT;
	corsa_thread_mark(thread);
	/* Now that it is marked: */
	sleeps = asleep(thread);
	waits = sleeps && corsa_reads_binder(task_pt_regs(thread->task));
	/* Nothing is queued for nobody. */
	returns = !to || returns_to_binder(thread, to);
	if (waits)
		return returns ? LEAVE_ASLEEP : CALL_AND_WAIT;
	if (!sleeps)
		return thread->leaving ? CALL : CALL_AND_WAIT;
	if (to && (returns || has_work(thread, to)))
		return CALL;
	*idle = true;
	return LEAVE_ASLEEP;
}

/* True if some were left asleep that have to be called some time. */
static bool kick_for_gate_locked(struct corsa_session *session,
				 struct corsa_record *to)
{
	struct corsa_thread *thread;
	bool idle, left = false;
	enum gate_call call;

	session->awaited = 0;
	list_for_each_entry(thread, &session->threads, link) {
		thread->awaited = false;
		if (thread->parked || thread->gated || thread->cur == to)
			continue;
		call = choose_for_gate(thread, to, &idle);
		left |= idle;
		if (call == LEAVE_ASLEEP)
			continue;
		if (call == CALL_AND_WAIT) {
			thread->awaited = true;
			session->awaited++;
		}
		corsa_thread_kick(thread);
	}
	return left;
}

enum manner { ALL, LAZY, FOR_GATE };

/*
 * The gate may switch with every transaction. To call in each time who has
 * nothing to do then would cost as much as the switch.
 */
static bool queue_sweep(struct corsa_session *session, enum manner manner)
{
	if (manner != FOR_GATE)
		return kthread_queue_work(sweeper, &session->sweep);
	return kthread_queue_delayed_work(sweeper, &session->later,
					  msecs_to_jiffies(10));
}

/* The part that does not sleep: see the top of the file. */
static void redirect(struct corsa_session *session, struct corsa_record *to,
		     bool held, enum manner manner)
{
	bool left = false;

	preempt_disable();
	spin_lock(&session->lock);
	if (session->active)
		note_recent_locked(session->active);
	/* It may have crashed while control waited. */
	if (to && !corsa_record_runnable(to))
		to = NULL;
	session->active = to;
	session->held = held && to;
	if (to)
		session->last = to;
	atomic_inc(&session->fence);
	if (manner == FOR_GATE)
		left = kick_for_gate_locked(session, to);
	else
		await_locked(session, manner != ALL);
	spin_unlock(&session->lock);
	if (manner == LAZY)
		left = kick_lazily(session, to);
	else if (manner == ALL)
		corsa_threads_kick(session);
	corsa_sync_cpus(session);
	atomic_dec(&session->fence);
	preempt_enable();
	wake_up_all(&session->parked);
	if (left && to) {
		corsa_session_get(session);
		if (!queue_sweep(session, manner))
			corsa_session_put(session);
	}
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

void corsa_activate_sweep_later(struct kthread_work *work)
{
	sweep(container_of(work, struct corsa_session, later.work));
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

static int wait_for_threads(struct corsa_session *session, long timeout)
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

static int switch_to_record(struct corsa_session *session,
			    struct corsa_record *to, bool held,
			    enum manner manner, long timeout)
{
	struct corsa_record *former = session->active;
	struct corsa_record *last = session->last;
	bool was_held = session->held;
	int ret;

	redirect(session, to, held, held ? ALL : manner);
	ret = wait_for_threads(session, timeout);
	if (ret && ret != -ESRCH) {
		redirect(session, former, was_held, LAZY);
		forget_awaited(session, last);
	}
	return ret;
}

int corsa_switch(struct corsa_session *session, struct corsa_record *to,
		 bool held, long timeout)
{
	return switch_to_record(session, to, held, ALL, timeout);
}

int corsa_switch_for_gate(struct corsa_session *session,
			  struct corsa_record *to, long timeout)
{
	u64 begin = ktime_get_ns();
	int ret;

	if (to != session->active && corsa_refuse_switch(session, to))
		return -EOPNOTSUPP;
	ret = switch_to_record(session, to, false, FOR_GATE, timeout);
	if (ret)
		return ret;
	spin_lock(&session->lock);
	session->stats.sum.activations++;
	corsa_stats_add_locked(session, CORSA_HIST_ACTIVATE,
			       ktime_get_ns() - begin);
	spin_unlock(&session->lock);
	return 0;
}

/* Every thread that could run is asleep and a signal could wake it. */
static bool all_asleep(struct corsa_session *session)
{
	struct corsa_thread *thread;
	bool all = true;

	rcu_read_lock();
	list_for_each_entry_rcu(thread, &session->threads, link) {
		all = READ_ONCE(thread->parked) || asleep(thread);
		if (!all)
			break;
	}
	rcu_read_unlock();
	return all;
}

/*
 * No instance is active: did each parked thread come out of a wait, and is each
 * one that was left asleep still in it?
 */
static bool all_at_boundary(struct corsa_session *session,
			    struct corsa_record *record)
{
	struct corsa_thread *thread;
	bool all = true;

	spin_lock(&session->lock);
	list_for_each_entry(thread, &session->threads, link) {
		if (thread->cur != record ||
		    !corsa_thread_state(thread, record))
			continue;
		all = thread->parked ? thread->at_boundary : asleep(thread);
		if (!all)
			break;
	}
	spin_unlock(&session->lock);
	return all;
}

/*
 * Stops the running instance at a boundary. A busy one is only looked at; it is
 * stopped when all threads seem to sleep, and let go again if one of them was
 * faster.
 */
static int park_at_boundary(struct corsa_session *session, u64 timeout_ns,
			    enum manner manner)
{
	struct corsa_record *record = session->active;
	u64 deadline = ktime_get_ns() + min_t(u64, timeout_ns, NSEC_PER_SEC * 3600);
	u64 pause = 10 * NSEC_PER_USEC;
	ktime_t expires;
	int ret;

	if (!record || session->held)
		return 0;
	for (;;) {
		if (all_asleep(session)) {
			ret = switch_to_record(session, NULL, false, manner,
					       CORSA_PATIENCE);
			if (ret)
				return ret;
			if (all_at_boundary(session, record))
				return 0;
			redirect(session, record, false, LAZY);
			forget_awaited(session, record);
		}
		if (ktime_get_ns() >= deadline)
			return -EBUSY;
		if (fatal_signal_pending(current))
			return -EINTR;
		if (READ_ONCE(session->over))
			return -ESRCH;
		expires = ns_to_ktime(pause);
		set_current_state(TASK_KILLABLE);
		schedule_hrtimeout(&expires, HRTIMER_MODE_REL);
		pause = min_t(u64, pause * 2, NSEC_PER_MSEC);
	}
}

long corsa_activate(struct corsa_session *session, struct corsa_activate *args)
{
	bool held = args->flags & CORSA_ACTIVATE_HOLD;
	enum manner manner = args->flags & CORSA_ACTIVATE_LAZY ? LAZY : ALL;
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
			ret = park_at_boundary(session, args->timeout_ns,
					       manner);
			if (ret)
				return ret;
		} else if (args->timeout_ns) {
			timeout = nsecs_to_jiffies(args->timeout_ns) + 1;
		}
		if (to != session->active || held != session->held) {
			ret = switch_to_record(session, to, held, manner, timeout);
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

int corsa_freeze(struct corsa_record *record)
{
	struct corsa_session *session = record->session;
	struct corsa_thread *thread;
	int ret;

	spin_lock(&session->lock);
	record->frozen = true;
	if (record == session->active)
		note_recent_locked(record);
	session->awaited = 0;
	list_for_each_entry(thread, &session->threads, link) {
		/* Late ones may still be on their way into the active one. */
		thread->awaited = !thread->parked &&
				  (record == session->active ||
				   thread->cur == record);
		session->awaited += thread->awaited;
		if (thread->awaited)
			corsa_thread_kick(thread);
	}
	spin_unlock(&session->lock);
	ret = wait_for_threads(session, CORSA_PATIENCE);
	if (!ret && READ_ONCE(record->awake))
		ret = -EBUSY;
	if (ret) {
		forget_awaited(session, session->last);
		corsa_thaw(record);
	}
	return ret;
}

void corsa_thaw(struct corsa_record *record)
{
	spin_lock(&record->session->lock);
	record->frozen = false;
	spin_unlock(&record->session->lock);
	wake_up_all(&record->session->parked);
}
