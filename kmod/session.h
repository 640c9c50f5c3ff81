/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_SESSION_H
#define CORSA_SESSION_H

#include <linux/cpumask.h>
#include <linux/kref.h>
#include <linux/kthread.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "events.h"
#include "stats.h"
#include "uapi/corsa.h"

struct corsa_gate;
struct corsa_record;
struct corsa_refusals;

/*
 * One virtualised process.
 *
 * References: one for each open descriptor, one while the process is attached,
 * one for each thread and each record. The last one gives back the task and
 * the module. So the module cannot go while any callback of it is pending.
 *
 * Locks, outermost first: control, lock, then those of the kernel. siglock is
 * taken inside lock, never the other way round.
 */
struct corsa_session {
	struct kref ref;
	struct rcu_head rcu;
	struct hlist_node node;		/* table of sessions, by signal_struct */
	struct signal_struct *signal;	/* a key; belongs to leader */
	struct task_struct *leader;	/* pinned: mm->owner of every record */
	bool persist;
	atomic_t openers;

	struct mutex control;		/* serialises requests */
	struct xarray records;		/* control; entries change under lock */
	u32 next_id;			/* control */
	u32 record_count;		/* control */
	cpumask_var_t cpus;		/* control: scratch of activate.c */
	struct corsa_gate *gate;	/* set once, under control; or NULL */

	spinlock_t lock;		/* everything below, and (lock) elsewhere */
	struct list_head threads;	/* RCU for readers */
	u32 thread_count;
	u32 next_index;
	struct corsa_record *active;	/* NULL: parked */
	struct corsa_record *last;	/* was active last */
	struct corsa_record *actions_of; /* whose signal actions are in force */
	bool held;			/* active, but its threads stay parked */
	atomic_t fence;			/* see activate.c; not under lock */
	bool over;			/* process ended or executed */
	bool parting;			/* detaching */
	bool foreign;			/* somebody shares the memory; refuse.c */
	u32 awaited;			/* threads that control waits for */

	/* crash policy (lock) */
	u32 policy;
	struct corsa_record *standby;
	u32 crash_limit;
	u32 crash_window_ms;
	u32 crash_count;
	u64 crash_window_start;

	wait_queue_head_t parked;	/* threads wait here */
	wait_queue_head_t waiting;	/* control waits here */
	struct corsa_events events;
	struct corsa_stats_block stats;	/* lock */
	struct kthread_work sweep;	/* see activate.c */
	struct delayed_work later;	/* the same, at the latest */
	struct work_struct end;
	struct work_struct release;
};

/* How long control waits for threads that sleep uninterruptibly. */
#define CORSA_PATIENCE (5 * HZ)

extern struct workqueue_struct *corsa_workqueue;

int corsa_session_init(void);
void corsa_session_exit(void);

/*
 * Adopts the process of leader, or joins its persistent session. On success the
 * caller owns one opener. ERR_PTR: see CORSA_IOC_ATTACH.
 */
struct corsa_session *corsa_session_attach(struct task_struct *leader,
					   struct corsa_attach *args,
					   struct corsa_refusals *refusals);
/* The caller's descriptor is gone. */
void corsa_session_close(struct corsa_session *session);
/* Lets the process go its way; waits a while for that. Holds control. */
int corsa_session_detach(struct corsa_session *session);

struct corsa_session *corsa_session_get(struct corsa_session *session);
void corsa_session_put(struct corsa_session *session);

/* Under rcu_read_lock(). Any thread of the process will do. */
struct corsa_session *corsa_session_of(struct task_struct *task);

/* The process has ended or executed another program. Any context but IRQ. */
void corsa_session_over(struct corsa_session *session, u32 event);
/* The last thread has settled after detaching. Holds lock. */
void corsa_session_parted_locked(struct corsa_session *session);

/* May the caller still look into the process? */
bool corsa_session_permitted(struct corsa_session *session);

#endif
