// SPDX-License-Identifier: GPL-2.0
#include <linux/freezer.h>
#include <linux/rseq.h>
#include <linux/sched/signal.h>

#include "record.h"
#include "session.h"
#include "settle.h"
#include "swap.h"
#include "symbols.h"
#include "thread.h"

/* Control need not wait for this thread any longer. */
static void settled_locked(struct corsa_thread *thread)
{
	struct corsa_session *session = thread->session;

	if (!thread->awaited)
		return;
	thread->awaited = false;
	if (!--session->awaited)
		wake_up(&session->waiting);
}

static void set_parked_locked(struct corsa_thread *thread, bool parked)
{
	if (thread->parked == parked)
		return;
	WRITE_ONCE(thread->parked, parked);
	if (!parked) {
		thread->cur->awake++;
		return;
	}
	if (!--thread->cur->awake)
		wake_up(&thread->session->waiting);
}

/* Some record that has the thread; verdict() has made sure that one exists. */
static struct corsa_record *refuge_locked(struct corsa_thread *thread)
{
	struct corsa_record *record;
	unsigned long id;

	xa_for_each(&thread->session->records, id, record)
		if (!record->doomed && corsa_thread_state(thread, record))
			return record;
	return NULL;
}

/* Enters with the lock, leaves with it; in between the thread becomes `to`. */
static void become_locked(struct corsa_thread *thread, struct corsa_record *to)
{
	struct corsa_session *session = thread->session;
	struct corsa_record *from = thread->cur;
	struct corsa_swap_times times;

	/* Claimed first, so that `to` is not discarded under us. */
	corsa_record_get(to);
	to->inside++;
	to->awake++;
	set_parked_locked(thread, false);
	thread->to = to;
	spin_unlock(&session->lock);

	corsa_swap(thread, to, &times);

	spin_lock(&session->lock);
	from->inside--;
	from->awake--;
	if (!from->inside || !from->awake)
		wake_up(&session->waiting);
	thread->cur = to;
	session->stats.sum.swaps++;
	corsa_stats_add_locked(session, CORSA_HIST_SWAP_MM, times.mm_ns);
	corsa_stats_add_locked(session, CORSA_HIST_SWAP, times.total_ns);
	thread->to = NULL;
	thread->leaving = false;
	/* It has not run since it was loaded, so its state there is still good. */
	thread->saved = true;
	corsa_record_put(from);
}

static bool may_go_on(struct corsa_thread *thread)
{
	struct corsa_session *session = thread->session;
	bool ret;

	spin_lock(&session->lock);
	ret = corsa_thread_judge_locked(thread) != CORSA_PARK;
	spin_unlock(&session->lock);
	return ret;
}

/*
 * Killable, so that nothing that kills the process has to know about us;
 * freezable, so that a sleeping machine need not either. Ordinary signals stay
 * pending until the thread runs. False: the thread is being killed.
 */
static bool park(struct corsa_thread *thread)
{
	struct corsa_session *session = thread->session;

	return !wait_event_state(session->parked, may_go_on(thread),
				 (TASK_KILLABLE | TASK_FREEZABLE));
}

/*
 * The session that pinned mm->owner goes away, and the kernel looks for a new
 * owner only when the owner leaves the mm it is in, which may be another.
 */
static void part_locked(struct corsa_thread *thread)
{
#ifdef CONFIG_MEMCG
	struct mm_struct *mm = current->mm;

	if (rcu_access_pointer(mm->owner) == thread->session->leader &&
	    thread->session->leader->flags & PF_EXITING)
		rcu_assign_pointer(mm->owner, current);
#endif
	corsa_thread_forget_locked(thread);
}

enum corsa_verdict corsa_settle(struct corsa_thread *thread)
{
	struct corsa_session *session = thread->session;
	enum corsa_verdict verdict;

	spin_lock(&session->lock);
	while (!thread->gone) {
		verdict = fatal_signal_pending(current) ?
				  CORSA_RUN : corsa_thread_judge_locked(thread);
		switch (verdict) {
		case CORSA_RUN:
			set_parked_locked(thread, false);
			thread->saved = false;
			thread->sleeps = current->nvcsw;
			thread->lends_mm = false;
			thread->leaving = false;
			settled_locked(thread);
			if (session->parting)
				part_locked(thread);
			goto run;
		case CORSA_BECOME:
			become_locked(thread, session->active);
			break;
		case CORSA_RETREAT:
			become_locked(thread, refuge_locked(thread));
			break;
		case CORSA_PARK:
			if (!thread->saved) {
				spin_unlock(&session->lock);
				corsa_thread_save(thread);
				spin_lock(&session->lock);
				thread->saved = true;
				break;
			}
			set_parked_locked(thread, true);
			thread->lends_mm = false;
			settled_locked(thread);
			spin_unlock(&session->lock);
			park(thread);
			spin_lock(&session->lock);
			break;
		case CORSA_LEAVE:
			set_parked_locked(thread, false);
			settled_locked(thread);
			corsa_thread_forget_locked(thread);
			spin_unlock(&session->lock);
			return CORSA_LEAVE;
		}
	}
run:
	spin_unlock(&session->lock);
	/* Control is making sure that nobody runs the former instance. */
	while (atomic_read(&session->fence)) {
		cpu_relax();
		cond_resched();
	}
	return CORSA_RUN;
}

void corsa_thread_set_gated(struct corsa_thread *thread, bool gated)
{
	spin_lock(&thread->session->lock);
	thread->gated = gated;
	if (gated)
		settled_locked(thread);
	spin_unlock(&thread->session->lock);
}

void corsa_settle_note_eintr(struct corsa_thread *thread)
{
	spin_lock(&thread->session->lock);
	thread->session->stats.sum.eintr_hidden++;
	spin_unlock(&thread->session->lock);
}

/*
 * The thread lives in no record any more, so its addresses mean nothing in the
 * mm that it happens to have: they are forgotten before the kernel tidies up
 * by them. do_exit() never returns to task_work_run(), which had taken the
 * whole list off the task; what is left of it has to run first.
 */
void __noreturn corsa_settle_leave(struct callback_head *rest)
{
	struct callback_head *next;

	for (; rest; rest = next) {
		next = rest->next;
		rest->func(rest);
	}
	current->clear_child_tid = NULL;
	current->robust_list = NULL;
	current->rseq = NULL;
	corsa_call(do_exit)(0);
	BUG();
}
