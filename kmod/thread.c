// SPDX-License-Identifier: GPL-2.0
#include <linux/hashtable.h>
#include <linux/rculist.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "binder_gate.h"
#include "crash.h"
#include "record.h"
#include "session.h"
#include "settle.h"
#include "swap.h"
#include "symbols.h"
#include "thread.h"

static DEFINE_HASHTABLE(table, 10);
static DEFINE_SPINLOCK(table_lock);

static void release(struct kref *ref)
{
	struct corsa_thread *thread = container_of(ref, struct corsa_thread, ref);

	put_task_struct(thread->task);
	corsa_session_put(thread->session);
	kfree_rcu(thread, rcu);
}

struct corsa_thread *corsa_thread_get(struct corsa_thread *thread)
{
	kref_get(&thread->ref);
	return thread;
}

void corsa_thread_put(struct corsa_thread *thread)
{
	kref_put(&thread->ref, release);
}

struct corsa_thread *corsa_thread_of(struct task_struct *task)
{
	struct corsa_thread *thread;

	hash_for_each_possible_rcu(table, thread, node, (unsigned long)task)
		if (thread->task == task)
			return thread;
	return NULL;
}

struct corsa_state *corsa_thread_state(struct corsa_thread *thread,
				       struct corsa_record *record)
{
	return xa_load(&record->states, thread->index);
}

/*
 * The task_work callback. It runs at the top of get_signal(): before signals
 * are taken, and before the kernel decides about restarting the system call.
 * So registers are saved and loaded as the system call left them, and the
 * kernel's own restart code then works on those of the new record.
 */
static void work(struct callback_head *head)
{
	struct callback_head *rest = head->next; /* a kick overwrites it */
	struct corsa_thread *thread;

	thread = container_of(head, struct corsa_thread, work);
	clear_bit(0, &thread->queued);
	smp_mb__after_atomic(); /* whoever sets it again wants us to look again */
	if (!(current->flags & PF_EXITING)) {
		if (corsa_hide_eintr())
			corsa_settle_note_eintr(thread);
		thread->at_boundary = corsa_at_boundary();
		if (thread->fatal_signal)
			corsa_crash_signal(thread);
		if (corsa_settle(thread) == CORSA_LEAVE) {
			corsa_thread_put(thread);
			corsa_settle_leave(rest);
		}
	}
	corsa_thread_put(thread);
}

void corsa_thread_kick(struct corsa_thread *thread)
{
	/* Found under RCU, it may just have been forgotten: it needs no call. */
	if (!kref_get_unless_zero(&thread->ref))
		return;
	if (test_and_set_bit(0, &thread->queued))
		/* It may only have been marked. */
		corsa_call(wake_up_state)(thread->task, TASK_INTERRUPTIBLE);
	else if (!task_work_add(thread->task, &thread->work, TWA_SIGNAL))
		return; /* the reference is the work's */
	/* ESRCH: it is past its last user instruction. */
	corsa_thread_put(thread);
}

void corsa_thread_mark(struct corsa_thread *thread)
{
	if (test_and_set_bit(0, &thread->queued))
		return;
	corsa_thread_get(thread);
	if (task_work_add(thread->task, &thread->work, TWA_NONE))
		corsa_thread_put(thread);
	else
		set_tsk_thread_flag(thread->task, TIF_NOTIFY_SIGNAL);
}

void corsa_threads_kick(struct corsa_session *session)
{
	struct corsa_thread *thread;

	rcu_read_lock();
	list_for_each_entry_rcu(thread, &session->threads, link)
		if (thread->task != current && !READ_ONCE(thread->parked))
			corsa_thread_kick(thread);
	rcu_read_unlock();
}

enum corsa_verdict corsa_thread_judge_locked(struct corsa_thread *thread)
{
	struct corsa_session *session = thread->session;
	struct corsa_record *active = session->active;
	struct corsa_view view = {
		.over = session->over,
		.parting = session->parting,
		.active = active,
		.doomed = thread->cur->doomed,
		.copies = thread->copies,
	};

	lockdep_assert_held(&session->lock);
	if (active) {
		view.still = session->held || active->frozen;
		view.at_active = thread->cur == active;
		view.in_active = corsa_thread_state(thread, active);
	}
	return corsa_verdict(&view);
}

int corsa_thread_add(struct corsa_session *session, struct corsa_record *record,
		     struct task_struct *task, gfp_t gfp)
{
	struct corsa_thread *thread = kzalloc(sizeof(*thread), gfp);
	struct corsa_state *state;
	int ret = -ENOMEM;

	if (!thread)
		return ret;
	thread->task = get_task_struct(task);
	thread->session = corsa_session_get(session);
	kref_init(&thread->ref);
	init_task_work(&thread->work, work);
	state = corsa_state_alloc(thread, gfp);
	if (!state)
		goto put_thread;

	spin_lock(&session->lock);
	rcu_read_lock();
	ret = corsa_thread_of(task) ? -EEXIST : 0;
	rcu_read_unlock();
	if (ret)
		goto unlock;
	thread->index = session->next_index;
	ret = xa_insert(&record->states, thread->index, state, GFP_ATOMIC);
	if (ret)
		goto unlock;
	session->next_index++;
	thread->cur = corsa_record_get(record);
	thread->copies = 1;
	record->inside++;
	record->awake++;
	/* Born while control waits for the threads of record: wait for it too. */
	if (record->frozen) {
		thread->awaited = true;
		session->awaited++;
	}
	session->thread_count++;
	list_add_tail_rcu(&thread->link, &session->threads);
	spin_lock(&table_lock);
	hash_add_rcu(table, &thread->node, (unsigned long)task);
	spin_unlock(&table_lock);
	spin_unlock(&session->lock);
	return 0;

unlock:
	spin_unlock(&session->lock);
	corsa_state_free(state);
put_thread:
	corsa_thread_put(thread);
	return ret;
}

static struct task_struct *next_untracked(struct corsa_session *session)
{
	struct task_struct *task, *found = NULL;

	rcu_read_lock();
	for_each_thread(session->leader, task) {
		/* A thread that is past exit_signals() runs no user code. */
		if (task->flags & PF_EXITING || corsa_thread_of(task))
			continue;
		get_task_struct(task);
		found = task;
		break;
	}
	rcu_read_unlock();
	return found;
}

/*
 * The session is in the table by now. A thread whose birth the probe saw is
 * added by the probe; one whose birth came before is in the list of threads.
 */
int corsa_threads_adopt(struct corsa_session *session,
			struct corsa_record *record)
{
	struct task_struct *task;
	int ret = 0;

	while (!ret && (task = next_untracked(session))) {
		ret = corsa_thread_add(session, record, task,
				       GFP_KERNEL_ACCOUNT);
		if (ret == -EEXIST)
			ret = 0;
		put_task_struct(task);
	}
	return ret;
}

/*
 * The state grows when the thread gets permission to use AMX. Then it does not
 * fit what was allocated at its birth.
 */
static struct corsa_state *grow(struct corsa_thread *thread,
				struct corsa_state *old)
{
	struct corsa_session *session = thread->session;
	struct corsa_state *state;

	state = corsa_state_alloc(thread, GFP_KERNEL_ACCOUNT | __GFP_NOFAIL);
	spin_lock(&session->lock);
	/* Replacing an entry allocates nothing. */
	xa_store(&thread->cur->states, thread->index, state, GFP_ATOMIC);
	spin_unlock(&session->lock);
	corsa_state_free(old);
	return state;
}

void corsa_thread_save(struct corsa_thread *thread)
{
	struct corsa_state *state = corsa_thread_state(thread, thread->cur);

	if (!state) /* it has exited there */
		return;
	if (state->fpu_size < current->thread.fpu.fpstate->size)
		state = grow(thread, state);
	corsa_state_save(state);
	/* Once to sleep again, where it had been: that is no work. */
	state->busy = !corsa_at_boundary() ||
		      current->nvcsw - thread->sleeps > 1;
}

struct corsa_state *corsa_thread_erase_locked(struct corsa_thread *thread)
{
	struct corsa_state *state;

	lockdep_assert_held(&thread->session->lock);
	state = xa_erase(&thread->cur->states, thread->index);
	if (state && !thread->cur->doomed)
		thread->copies--;
	return state;
}

void corsa_thread_forget_locked(struct corsa_thread *thread)
{
	struct corsa_session *session = thread->session;
	struct corsa_record *record = thread->cur;

	lockdep_assert_held(&session->lock);
	if (thread->gone)
		return;
	thread->gone = true;
	list_del_rcu(&thread->link);
	spin_lock(&table_lock);
	hash_del_rcu(&thread->node);
	spin_unlock(&table_lock);
	session->thread_count--;
	if (thread->awaited) {
		thread->awaited = false;
		session->awaited--;
	}
	record->inside--;
	if (!thread->parked)
		record->awake--;
	wake_up(&session->waiting);
	corsa_record_put(record);
	if (session->parting && list_empty(&session->threads))
		corsa_session_parted_locked(session);
	corsa_thread_put(thread);
}

void corsa_threads_forget_locked(struct corsa_session *session)
{
	struct corsa_thread *thread, *next;

	list_for_each_entry_safe(thread, next, &session->threads, link)
		corsa_thread_forget_locked(thread);
}

/* It cannot come back to life in the other records that have it. */
static void break_records_locked(struct corsa_thread *thread)
{
	struct corsa_record *record;
	struct corsa_state *state;
	unsigned long id;

	xa_for_each(&thread->session->records, id, record) {
		state = xa_erase(&record->states, thread->index);
		if (!state)
			continue;
		if (record != thread->cur)
			record->broken = true;
		corsa_state_free(state);
	}
}

void corsa_thread_died(struct corsa_thread *thread, bool last)
{
	struct corsa_session *session = thread->session;

	corsa_gate_thread_died(thread);
	spin_lock(&session->lock);
	if (!last && thread->copies)
		break_records_locked(thread);
	corsa_thread_forget_locked(thread);
	spin_unlock(&session->lock);
}
