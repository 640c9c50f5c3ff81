/* SPDX-License-Identifier: GPL-2.0 */
/* The gate's own state, for the files binder_*.c. */
#ifndef CORSA_BINDER_STATE_H
#define CORSA_BINDER_STATE_H

#include <linux/hashtable.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "binder_gate.h"

struct binder_buffer;
struct binder_node;
struct binder_proc;
struct binder_thread;
struct binder_transaction;
struct corsa_refs;
struct corsa_shadow;
struct file;

/* A service opens a handful of Binder devices. */
#define CORSA_BINDER_DEVICES 8

/*
 * A transaction in progress. It pins the instance that it is in: the gate turns
 * to another one when there is no ticket left.
 */
struct corsa_ticket {
	struct hlist_node node;		/* table of all, by debug_id */
	struct list_head link;		/* gate->tickets or gate->spare */
	struct corsa_gate *gate;
	u32 id;				/* of the instance */
	int debug_id;			/* the driver's, unique */
	bool oneway;
	bool outgoing;
	bool routed;			/* incoming, by the route of key */
	bool over;	/* but thread `by` has yet to read what is left of it */
	bool delivered;			/* oneway: only the buffer is left */
	pid_t by;
	struct binder_proc *proc;	/* incoming: the device */
	uintptr_t buffer;		/* incoming: as the process sees it */
	struct task_struct *receiver;	/* outgoing: who handles it; a key */
	u64 key;			/* incoming: of the app */
};

/* What is known of one app. Lives as long as the gate. */
struct corsa_route {
	struct hlist_node node;
	u64 key;
	u32 id;		/* CORSA_NONE: wanted */
	u32 flags;
	u32 every;
	u32 since;
	u32 waiting;
	u32 refusals;	/* how often it was sent nowhere */
	bool announced;	/* WANTED has been sent since the last change */
	bool due;
	u64 transactions;
	u64 oneway;
};

struct corsa_gate {
	struct corsa_session *session;
	u32 key;
	u32 flags;
	long patience;			/* jiffies */
	struct corsa_shadow *shadow;	/* control */

	/* Held while somebody works on the driver's structures from outside. */
	struct mutex driver;
	struct binder_proc *procs[CORSA_BINDER_DEVICES]; /* driver and lock */
	u32 proc_count;

	spinlock_t lock; /* all below; the driver's locks are taken inside */
	bool over;
	bool shut;		/* an instance is on HOLD */
	bool aborting;		/* a crash is being cleared up */
	bool exclusive;		/* a request has closed the gate */
	u32 holder;		/* whose transactions are in progress, if any */
	u32 count;		/* how many are */
	u32 ready;		/* instance that is known to be active */
	u32 generation;		/* of routes and records */
	struct list_head queue;		/* struct corsa_waiter */
	struct list_head tickets;
	struct list_head spare;
	u32 spare_count;
	u32 route_count;
	DECLARE_HASHTABLE(routes, 8);
	struct list_head nodes;		/* struct corsa_node */
	DECLARE_HASHTABLE(node_table, 6);
	int last_common_node;		/* debug_id */
	u32 shown;			/* instance whose nodes can be found */
	struct corsa_refs *refs;	/* control, and its own lock */
	struct corsa_binder_stats stats;

	wait_queue_head_t changed;	/* generation, over */
	struct work_struct abort;
	struct corsa_record *crashed;	/* pinned, for abort */
};

/* Somebody who may not go on yet; on the stack of the one who waits. */
struct corsa_waiter {
	struct list_head link;	/* gate->queue */
	struct task_struct *task;
	u32 id;
	bool exclusive;
	bool own;	/* a thread of the process itself, in instance id */
	bool granted;	/* counted already */
	bool refused;	/* its instance has crashed */
};

/* binder_token.c; all hold gate->lock. */

/* May a transaction for instance id go on at once? */
bool corsa_token_free_locked(const struct corsa_gate *gate, u32 id);
void corsa_token_take_locked(struct corsa_gate *gate, u32 id);
void corsa_token_give_locked(struct corsa_gate *gate);
/* Lets those go on who may by now. */
void corsa_token_grant_locked(struct corsa_gate *gate);
/* Lets all go on that wait for the instance that has the token. */
void corsa_token_share_locked(struct corsa_gate *gate);
/* The thread should be on its way out before another instance is let in. */
bool corsa_token_wanted_locked(const struct corsa_gate *gate);
/*
 * Drops the lock and waits. On success it has the token, and the lock again.
 * *left: jiffies, in and out. -ETIMEDOUT, -EINTR, -ECANCELED (refused).
 */
int corsa_token_wait_locked(struct corsa_gate *gate, struct corsa_waiter *waiter,
			    long *left);

/* binder_ticket.c */

struct corsa_ticket *corsa_ticket_alloc(struct corsa_gate *gate);
/* One that has not been put in. */
void corsa_ticket_free_locked(struct corsa_ticket *ticket);
void corsa_ticket_put_in_locked(struct corsa_ticket *ticket);
/* Takes it out and gives the token back; the ticket stays the caller's. */
void corsa_ticket_take_out_locked(struct corsa_ticket *ticket);
/* The same, and frees it. */
void corsa_ticket_release_locked(struct corsa_ticket *ticket);
struct corsa_ticket *corsa_ticket_find_locked(struct corsa_gate *gate,
					      int debug_id);
/* What it was for is not there. */
void corsa_ticket_forget(struct corsa_gate *gate, int debug_id);
void corsa_tickets_drop(struct corsa_gate *gate);

/* The driver has queued the transaction, or refused it. */
void corsa_ticket_queued(int debug_id, bool queued);
/* It has forgotten it. No locks of the driver are held. */
void corsa_ticket_ended(const struct binder_transaction *t);
/* It frees the buffer. */
void corsa_ticket_buffer_freed(const struct binder_buffer *buffer);
/* Current, of any process, has received it. */
void corsa_ticket_received(const struct binder_transaction *t);
/* Current is at the end of an ioctl() of a Binder device. */
void corsa_ticket_ioctl_done(void);

/* binder_gate.c */

/*
 * Current is about to queue t for a thread of `to` (NULL: any). Sleeps until it
 * may. 0, or what the driver is to answer.
 */
int corsa_gate_pass(struct binder_transaction *t, struct binder_proc *to,
		    struct binder_thread *thread);
/* With a reference to the session, or NULL. */
struct corsa_gate *corsa_gate_of(struct task_struct *task);

/* binder_route.c */

/*
 * Where does the key lead? CORSA_NONE: nowhere, for now. Counts and announces.
 * May drop the lock to make the route: *route is NULL if that failed.
 */
struct corsa_route *corsa_route_locked(struct corsa_gate *gate, u64 key);
/* NULL: there is none. */
struct corsa_route *corsa_route_find_locked(struct corsa_gate *gate, u64 key);
/* A transaction of the route goes on. */
void corsa_route_count_locked(struct corsa_gate *gate,
			      struct corsa_route *route);
/* A transaction goes on (1), or has come to nothing after all (-1). */
void corsa_route_tally_locked(struct corsa_gate *gate,
			      const struct corsa_ticket *ticket, int by);
void corsa_route_want_locked(struct corsa_gate *gate, struct corsa_route *route);
void corsa_routes_free(struct corsa_gate *gate);

/* binder_origin.c: names the app that t comes from. Current is the sender. */
u64 corsa_origin_key(const struct corsa_gate *gate,
		     const struct binder_transaction *t);

/* binder_node.c: the objects of instances */

/* Current has sent it out of its process. */
void corsa_node_sent(struct binder_node *node);
/* CORSA_NONE: it is of all. -EPIPE: its instance has been rolled back. */
int corsa_node_owner_locked(const struct corsa_gate *gate,
			    const struct binder_node *node, u32 *id);
/* Must no thread be in the driver when instance id becomes active? */
bool corsa_nodes_in_the_way(struct corsa_gate *gate, u32 id);
/* Lets the driver find the nodes of instance id, and of no other. */
void corsa_nodes_show(struct corsa_gate *gate, u32 id);
void corsa_nodes_end(struct corsa_gate *gate);

/* binder_ref.c: handles of instances; see there. Most hold session->control. */

struct corsa_refs *corsa_refs_create(void);
void corsa_refs_free(struct corsa_refs *refs);
/* All that there is belongs to record id. -ENOMEM */
int corsa_refs_begin(struct corsa_gate *gate, u32 id);
/* The process keeps what the record has that was active last. */
void corsa_refs_end(struct corsa_gate *gate);
/* Must no thread be in the driver when instance id becomes active? */
bool corsa_refs_in_the_way(struct corsa_gate *gate, u32 id);
/* From now on the driver has the view of instance id. */
void corsa_refs_show(struct corsa_gate *gate, u32 id);
/* Probes. Current has told the driver something about a handle. */
void corsa_refs_touch(void);
/* Current sends a transaction that brings the handle. */
void corsa_refs_sent(const struct binder_transaction *t, u32 desc);
/* It has come to its instance, or to nobody. */
void corsa_refs_arrived(struct corsa_gate *gate, int transaction);

/* binder_hook.c */

/* Gets between. -ENODEV, -ENOSYS. */
int corsa_hook_driver(void);
u32 corsa_hook_kind(void);

/* binder_driver.c: what is done with the driver's own structures. */

/* The device that the file is open on, or NULL. */
struct binder_proc *corsa_driver_proc(const struct file *file);
/* Is there nothing left for the thread to read? Holds gate->lock. */
bool corsa_driver_idle_locked(const struct corsa_gate *gate, pid_t tid);
/* Resolves what abort needs. -ENOSYS */
int corsa_driver_init(void);
void corsa_driver_put_node(struct binder_node *node);
/* Once less. May sleep. */
void corsa_driver_drop_ref(struct binder_proc *proc, u32 desc, bool strong);
/* Somebody should look for work. Holds proc->inner_lock. */
void corsa_driver_wake_ilocked(struct binder_proc *proc);
/* The youngest node that there is. */
int corsa_driver_last_node(const struct corsa_gate *gate);
/* Ends all transactions of the process. Holds gate->driver. */
void corsa_driver_abort(struct corsa_gate *gate);

/* binder_abort.c */

void corsa_abort_work(struct work_struct *work);
/* A transaction was queued for an instance that has crashed. */
void corsa_abort_locked(struct corsa_gate *gate);

/* binder_shadow.c */

/* Finds and pins the Binder mappings of mm. ERR_PTR(-ENODEV): it has none. */
struct corsa_shadow *corsa_shadow_create(struct mm_struct *mm);
u32 corsa_shadow_procs(const struct corsa_shadow *shadow,
		       struct binder_proc **procs);
u64 corsa_shadow_faults(const struct corsa_shadow *shadow);
/* Instances that have it mapped keep what they need. */
void corsa_shadow_put(struct corsa_shadow *shadow);
void corsa_shadow_exit(void);

#endif
