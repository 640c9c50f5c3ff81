/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_THREAD_H
#define CORSA_THREAD_H

#include <linux/kref.h>
#include <linux/list.h>
#include <linux/sched.h>
#include <linux/task_work.h>
#include <linux/types.h>

#include "verdict.h"

struct corsa_record;
struct corsa_session;
struct corsa_state;

/*
 * One thread of the process, from its creation (or ATTACH) to its end.
 * References: one while it is on session->threads, one while work is queued,
 * one for each state of it.
 */
struct corsa_thread {
	struct kref ref;
	struct rcu_head rcu;
	struct hlist_node node;		/* table of threads, by task; RCU */
	struct list_head link;		/* session->threads; RCU */
	struct corsa_session *session;	/* pinned */
	struct task_struct *task;	/* pinned */
	u32 index;			/* into corsa_record.states; never reused */
	unsigned long queued;		/* bit 0: work is on the task's list */
	struct callback_head work;

	/* Written by the thread itself under session->lock: */
	struct corsa_record *cur;	/* the record that it is in */
	struct corsa_record *to; /* that it is becoming: it has something of each */
	unsigned long sleeps; /* task->nvcsw when it began to run in cur */
	bool parked;
	bool saved;	/* its state in cur is up to date: it has not run since */
	bool at_boundary; /* it came here out of an interruptible wait */
	bool gated;	/* sleeps in the Binder gate; changes under session->lock */
	bool leaving;	/* will not enter Binder's driver before it runs our work */

	/* session->lock: */
	u32 copies;	/* records in which it exists */
	bool awaited;	/* counted in session->awaited */
	bool lends_mm;	/* its vfork() child may be running in cur->mm */
	bool gone;	/* off session->threads */

	/* Written by the thread itself in crash.c: */
	int fatal_signal;
	int fatal_code;
	unsigned long fatal_address;
};

struct corsa_thread *corsa_thread_get(struct corsa_thread *thread);
void corsa_thread_put(struct corsa_thread *thread);

/*
 * Puts task under control, in record. gfp: GFP_ATOMIC from the probe of a
 * thread's birth. -EEXIST if it is already. The thread does not run our code
 * until it is kicked.
 */
int corsa_thread_add(struct corsa_session *session, struct corsa_record *record,
		     struct task_struct *task, gfp_t gfp);
/* Finds all threads of the process; for ATTACH. */
int corsa_threads_adopt(struct corsa_session *session,
			struct corsa_record *record);

/* Under rcu_read_lock() or by the thread itself. */
struct corsa_thread *corsa_thread_of(struct task_struct *task);

/*
 * Makes the thread run our code before it executes the next user instruction;
 * wakes it from an interruptible sleep. Any context but NMI.
 */
void corsa_thread_kick(struct corsa_thread *thread);
/*
 * The same, but a thread that is asleep is not woken. Whatever wakes it then, it
 * finds a signal pending, leaves the system call and runs our code. Not for a
 * thread that could be in user mode on another CPU.
 */
void corsa_thread_mark(struct corsa_thread *thread);
/* Kicks all but the caller itself and those that are parked. */
void corsa_threads_kick(struct corsa_session *session);

/*
 * Current, a thread of the process, is about to sleep in the Binder gate, where
 * it is in nobody's way, or no longer.
 */
void corsa_thread_set_gated(struct corsa_thread *thread, bool gated);

/* Its facts as of now. Holds session->lock. */
enum corsa_verdict corsa_thread_judge_locked(struct corsa_thread *thread);

/* The state of thread in record, or NULL if it does not exist there. */
struct corsa_state *corsa_thread_state(struct corsa_thread *thread,
				       struct corsa_record *record);
/* Current saves its state in the record that it is in, if it exists there. */
void corsa_thread_save(struct corsa_thread *thread);
/* The thread no longer exists in the record that it is in; caller frees. */
struct corsa_state *corsa_thread_erase_locked(struct corsa_thread *thread);

/* The task is exiting; for the probe. */
void corsa_thread_died(struct corsa_thread *thread, bool last);
/* It goes its own way from here, or has ended. Holds session->lock. */
void corsa_thread_forget_locked(struct corsa_thread *thread);
/* Every thread is forgotten, as the session is over. Holds session->lock. */
void corsa_threads_forget_locked(struct corsa_session *session);

#endif
