// SPDX-License-Identifier: GPL-2.0
/*
 * Whom to call when another record becomes active.
 *
 * Most threads of most programs only sleep. To wake each one, so that it leaves
 * a wait here and enters the same wait there, is what a switch would spend its
 * time on. A thread that is asleep, and was idle when the new record was active
 * last, may be only marked: nothing wakes it, but if something does, it finds a
 * signal pending, leaves the system call and runs our work. And if the former
 * record becomes active again soon, it has never left.
 *
 * What matters is what the system call does before it looks for signals. One
 * that only looks (poll, epoll, a futex, a timer) changes nothing but what it
 * returns, in the record that it belongs to. One that takes (read, accept) may
 * take what comes for a record that is not active: it is called. If it takes
 * what all records share, it could take what is meant for another one: such a
 * thread has to be out of the call before the switch is complete.
 */
#include <linux/rculist.h>
#include <linux/sched/task_stack.h>

#include "record.h"
#include "session.h"
#include "summon.h"
#include "swap.h"
#include "thread.h"
#include "waits.h"

enum call { LEAVE_ASLEEP, CALL, CALL_AND_WAIT };

void corsa_note_recent_locked(struct corsa_record *record)
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

bool corsa_asleep(struct corsa_thread *thread)
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

/*
 * The thread is marked, and in a record that is not `to`. If it is on no CPU it
 * can do no more than to end the system call that it is in.
 */
static enum call choose_lazily(struct corsa_thread *thread,
			       struct corsa_record *to)
{
	enum corsa_waits waits;

	if (READ_ONCE(thread->task->on_cpu))
		return CALL_AND_WAIT;
	waits = corsa_waits_for(thread);
	if (waits == CORSA_WAITS_TO_TAKE_SHARED)
		return CALL_AND_WAIT;
	if (waits == CORSA_WAITS_TO_LOOK && corsa_asleep(thread) &&
	    !has_work(thread, to))
		return LEAVE_ASLEEP;
	/* While nobody is active, nobody may take anything. */
	return to ? CALL : CALL_AND_WAIT;
}

/* Will the thread, when it becomes the record, go to wait in Binder's driver? */
static bool returns_to_binder(struct corsa_thread *thread,
			      struct corsa_record *record)
{
	struct corsa_state *state = corsa_thread_state(thread, record);

	return state && corsa_reads_binder(&state->regs) &&
	       (long)state->regs.ax < 0 && (long)state->regs.orig_ax >= 0;
}

/*
 * A thread of another record must not take a transaction that is queued when
 * the switch is done. One that is asleep in the driver cannot: whatever wakes
 * it, it finds a signal pending before it looks for work. If it would come back
 * to the same place in the new record, to be woken for work is all that it
 * needs. One that runs may be about to look for work, and is waited for, unless
 * it is known to be on its way out.
 */
static enum call choose_for_gate(struct corsa_thread *thread,
				 struct corsa_record *to)
{
	bool returns;

	if (!corsa_asleep(thread))
		return thread->leaving ? CALL : CALL_AND_WAIT;
	/* Nothing is queued for nobody. */
	returns = !to || returns_to_binder(thread, to);
	if (corsa_reads_binder(task_pt_regs(thread->task)))
		return returns ? LEAVE_ASLEEP : CALL_AND_WAIT;
	if (corsa_waits_for(thread) == CORSA_WAITS_TO_TAKE_SHARED)
		return CALL_AND_WAIT;
	return to && (returns || has_work(thread, to)) ? CALL : LEAVE_ASLEEP;
}

/* Left asleep in Binder's driver, it needs no call but a transaction. */
static bool is_owed_a_call(struct corsa_thread *thread,
			   enum corsa_manner manner)
{
	return manner != CORSA_FOR_GATE ||
	       !corsa_reads_binder(task_pt_regs(thread->task));
}

/* Which threads have to settle before the switch is complete? */
static void await_all_locked(struct corsa_session *session)
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
			wait = true;
		thread->awaited = wait;
		session->awaited += wait;
	}
}

bool corsa_summon_locked(struct corsa_session *session, struct corsa_record *to,
			 enum corsa_manner manner)
{
	struct corsa_thread *thread;
	bool left = false;
	enum call call;

	if (manner == CORSA_ALL) {
		await_all_locked(session);
		corsa_threads_kick(session);
		return false;
	}
	session->awaited = 0;
	list_for_each_entry(thread, &session->threads, link) {
		thread->awaited = false;
		/* One that never left `to` is where it should be. */
		if (thread->parked || thread->gated || thread->cur == to)
			continue;
		if (thread->lends_mm) {
			call = CALL_AND_WAIT;
		} else {
			/* First, so that what it is seen to do is its last. */
			corsa_thread_mark(thread);
			call = manner == CORSA_LAZY ?
				       choose_lazily(thread, to) :
				       choose_for_gate(thread, to);
		}
		if (call == LEAVE_ASLEEP) {
			left |= is_owed_a_call(thread, manner);
			continue;
		}
		if (call == CALL_AND_WAIT) {
			thread->awaited = true;
			session->awaited++;
		}
		corsa_thread_kick(thread);
	}
	return left;
}
