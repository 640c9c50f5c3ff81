// SPDX-License-Identifier: GPL-2.0
/*
 * The way of a transaction through the gate. Everything happens in the sender,
 * which may sleep there: the driver has built the transaction, but nobody at
 * the other end knows of it yet.
 */
#include <linux/sched/signal.h>

#include "activate.h"
#include "binder_internal.h"
#include "binder_state.h"
#include "record.h"
#include "session.h"
#include "thread.h"

struct corsa_gate *corsa_gate_of(struct task_struct *task)
{
	struct corsa_session *session;
	struct corsa_gate *gate = NULL;

	rcu_read_lock();
	session = corsa_session_of(task);
	if (session && READ_ONCE(session->gate) && !READ_ONCE(session->over) &&
	    kref_get_unless_zero(&session->ref))
		gate = session->gate;
	rcu_read_unlock();
	return gate;
}

static void gate_put(struct corsa_gate *gate)
{
	if (gate)
		corsa_session_put(gate->session);
}

static int turn_to(struct corsa_gate *gate, struct corsa_record *record,
		   long left)
{
	int ret = 0;

	if (corsa_nodes_in_the_way(gate, record->id) ||
	    corsa_refs_in_the_way(gate, record->id)) {
		ret = corsa_switch_for_gate(gate->session, NULL, left);
		if (ret)
			return ret;
		corsa_nodes_show(gate, record->id);
	}
	corsa_refs_show(gate, record->id);
	return corsa_switch_for_gate(gate->session, record, left);
}

/*
 * Makes instance id the active one. The token is ours, so nobody else wants
 * another. -ENOENT: it cannot run.
 */
static int activate(struct corsa_gate *gate, u32 id, long left)
{
	struct corsa_session *session = gate->session;
	struct corsa_record *record;
	bool other;
	int ret;

	if (READ_ONCE(gate->ready) == id)
		return 0;
	if (mutex_lock_killable(&session->control))
		return -EINTR;
	record = corsa_record_find(session, id);
	other = record != session->active;
	if (READ_ONCE(session->over) || READ_ONCE(session->parting))
		ret = -ESRCH;
	else if (IS_ERR(record) || !corsa_record_runnable(record))
		ret = -ENOENT;
	else if (READ_ONCE(gate->ready) == id)
		ret = other = 0;
	else
		ret = turn_to(gate, record, left);
	if (!ret) {
		spin_lock(&gate->lock);
		/* Unless it has crashed already. */
		if (session->active == record)
			gate->ready = id;
		gate->stats.switches += other;
		spin_unlock(&gate->lock);
	}
	mutex_unlock(&session->control);
	return ret;
}

/* Is current handling a call that the process has made? */
static bool within_call_locked(const struct corsa_gate *gate)
{
	struct corsa_ticket *ticket;

	list_for_each_entry(ticket, &gate->tickets, link)
		if (ticket->receiver == current && !ticket->over)
			return true;
	return false;
}

/*
 * While the instance waits for an answer from outside, what is meant for it
 * goes before the others: the answer may depend on that.
 */
static bool calls_out_locked(const struct corsa_gate *gate, u32 id)
{
	struct corsa_ticket *ticket;

	if (!gate->count || gate->holder != id || gate->aborting || gate->shut)
		return false;
	list_for_each_entry(ticket, &gate->tickets, link)
		if (ticket->outgoing && !ticket->over)
			return true;
	return false;
}

static int wait_for_change(struct corsa_gate *gate, struct corsa_route *route,
			   long *left) __must_hold(&gate->lock)
{
	u32 seen = gate->generation;
	long ret;

	if (route)
		route->waiting++;
	gate->stats.waits++;
	gate->stats.waiting++;
	spin_unlock(&gate->lock);
	ret = wait_event_killable_timeout(gate->changed,
					  READ_ONCE(gate->generation) != seen ||
					  READ_ONCE(gate->over), *left);
	spin_lock(&gate->lock);
	gate->stats.waiting--;
	if (route)
		route->waiting--;
	*left = max(ret, 0L);
	if (ret < 0)
		return -EINTR;
	return ret || gate->over ? 0 : -ETIMEDOUT;
}

/*
 * Waits until the transaction may go to its instance, whose token it has then.
 * Drops the lock in between. Without a token and with 0 if the gate is over.
 */
static int obtain_locked(struct corsa_gate *gate, struct corsa_ticket *ticket,
			 const struct binder_node *node, u64 key, long *left)
{
	struct corsa_waiter waiter = {};
	struct corsa_route *route;
	u32 owner, refusals;
	bool waited = false;
	int ret;

	if (gate->count && within_call_locked(gate)) {
		/* Its caller waits for it, and would do so with the token. */
		ticket->id = gate->holder;
		corsa_token_take_locked(gate, ticket->id);
		return 0;
	}
	ret = corsa_node_owner_locked(gate, node, &owner);
	if (ret)
		return ret;
	for (;;) {
		route = owner == CORSA_NONE ?
				corsa_route_locked(gate, key) :
				corsa_route_find_locked(gate, key);
		if (owner != CORSA_NONE && (!route || route->id != owner)) {
			/* An object that one app has given to another. */
			route = NULL;
			ticket->id = owner;
			break;
		}
		if (!route)
			return -ENOSPC;
		if (gate->over)
			return 0;
		ticket->id = route->id;
		if (route->id != CORSA_NONE &&
		    !(route->due && route->flags & CORSA_ROUTE_PAUSE))
			break;
		if (!waited)
			refusals = route->refusals;
		else if (route->refusals != refusals)
			return -ECANCELED;
		waited = true;
		corsa_route_want_locked(gate, route);
		ret = wait_for_change(gate, route, left);
		if (ret)
			return ret;
	}
	ticket->routed = route;
	if (route)
		corsa_route_count_locked(gate, route);
	if (corsa_token_free_locked(gate, ticket->id) ||
	    calls_out_locked(gate, ticket->id)) {
		corsa_token_take_locked(gate, ticket->id);
		return 0;
	}
	waiter.id = ticket->id;
	return corsa_token_wait_locked(gate, &waiter, left);
}

/* The instance could not be made active. */
static int lost_locked(struct corsa_gate *gate, u64 key, u32 id, long *left)
{
	struct corsa_route *route = corsa_route_find_locked(gate, key);

	if (gate->over)
		return 0;
	/* It may have been given another in the meantime, or never had this. */
	if (route && route->id != id)
		route = NULL;
	if (route)
		corsa_route_want_locked(gate, route);
	return wait_for_change(gate, route, left);
}

static void count_failure_locked(struct corsa_gate *gate, int error)
{
	if (error == -EINTR)
		gate->stats.interrupted++;
	else if (error == -ETIMEDOUT)
		gate->stats.timeouts++;
}

/* From outside into the process. */
static int enter(struct corsa_gate *gate, struct binder_proc *proc,
		 struct binder_transaction *t)
{
	struct corsa_ticket *ticket = corsa_ticket_alloc(gate);
	u64 key = corsa_origin_key(gate, t);
	long left = gate->patience;
	int ret;

	if (!ticket)
		return -ENOMEM;
	ticket->debug_id = t->debug_id;
	ticket->oneway = t->flags & TF_ONE_WAY;
	ticket->proc = proc;
	ticket->buffer = (uintptr_t)t->buffer->user_data;
	ticket->key = key;
	spin_lock(&gate->lock);
	gate->stats.transactions++;
	gate->stats.oneway += ticket->oneway;
	for (;;) {
		ret = obtain_locked(gate, ticket, t->buffer->target_node, key,
				    &left);
		if (ret || gate->over)
			break;
		corsa_ticket_put_in_locked(ticket);
		corsa_route_tally_locked(gate, ticket, 1);
		spin_unlock(&gate->lock);
		ret = activate(gate, ticket->id, left);
		if (!ret || ret == -ESRCH) {
			corsa_refs_arrived(gate, t->debug_id);
			return 0;
		}
		spin_lock(&gate->lock);
		corsa_ticket_take_out_locked(ticket);
		corsa_route_tally_locked(gate, ticket, -1);
		if (ret == -ENOENT)
			ret = lost_locked(gate, key, ticket->id, &left);
		if (ret)
			break;
	}
	if (ret)
		count_failure_locked(gate, ret);
	corsa_ticket_free_locked(ticket);
	spin_unlock(&gate->lock);
	corsa_refs_arrived(gate, t->debug_id);
	return ret;
}

/*
 * Out of the process. The call pins the instance that makes it: its thread
 * waits inside the driver, which knows only the thread, so no other instance
 * may have that until the reply is read.
 */
static int leave(struct corsa_gate *gate, struct corsa_thread *thread,
		 struct binder_transaction *t)
{
	struct corsa_waiter waiter = { .id = thread->cur->id, .own = true };
	struct corsa_ticket *ticket = corsa_ticket_alloc(gate);
	long left = gate->patience;
	int ret = 0;

	if (!ticket)
		return -ENOMEM;
	ticket->debug_id = t->debug_id;
	ticket->oneway = t->flags & TF_ONE_WAY;
	ticket->outgoing = true;
	ticket->by = task_pid_nr(current);
	ticket->id = waiter.id;
	spin_lock(&gate->lock);
	gate->stats.outgoing++;
	if (gate->over) {
		corsa_ticket_free_locked(ticket);
		spin_unlock(&gate->lock);
		return 0;
	}
	if (gate->count && gate->holder == ticket->id) {
		/* Those in the queue wait for this one in any case. */
		corsa_token_take_locked(gate, ticket->id);
	} else if (corsa_token_free_locked(gate, ticket->id) &&
		   READ_ONCE(gate->session->active) == thread->cur) {
		corsa_token_take_locked(gate, ticket->id);
	} else {
		spin_unlock(&gate->lock);
		corsa_thread_set_gated(thread, true);
		spin_lock(&gate->lock);
		ret = corsa_token_wait_locked(gate, &waiter, &left);
	}
	if (ret || gate->over) {
		if (ret)
			count_failure_locked(gate, ret);
		corsa_ticket_free_locked(ticket);
		spin_unlock(&gate->lock);
		corsa_thread_set_gated(thread, false);
		return ret;
	}
	corsa_ticket_put_in_locked(ticket);
	if (!ticket->oneway)
		corsa_token_share_locked(gate);
	spin_unlock(&gate->lock);
	if (READ_ONCE(thread->gated)) {
		ret = activate(gate, waiter.id, left);
		corsa_thread_set_gated(thread, false);
		if (ret && ret != -ESRCH)
			corsa_ticket_queued(t->debug_id, false);
		else
			ret = 0;
	}
	return ret;
}

static struct corsa_thread *current_thread(void)
{
	struct corsa_thread *thread;

	rcu_read_lock();
	thread = corsa_thread_of(current);
	rcu_read_unlock();
	return thread; /* it is running, so it stays */
}

int corsa_gate_pass(struct binder_transaction *t, struct binder_proc *to,
		    struct binder_thread *thread)
{
	struct corsa_gate *target = corsa_gate_of(to->tsk);
	struct corsa_gate *own = corsa_gate_of(current);
	struct corsa_thread *sender = own ? current_thread() : NULL;
	int ret = 0;

	if (sender)
		ret = leave(own, sender, t);
	if (!ret && target && thread) {
		/* Part of the call that thread waits for. */
		spin_lock(&target->lock);
		target->stats.nested++;
		spin_unlock(&target->lock);
		corsa_refs_arrived(target, t->debug_id);
	} else if (!ret && target) {
		ret = enter(target, to, t);
		if (ret && sender)
			corsa_ticket_queued(t->debug_id, false);
	}
	gate_put(target);
	gate_put(own);
	return !ret ? 0 : ret == -EPIPE ? BR_DEAD_REPLY : BR_FAILED_REPLY;
}

int corsa_gate_close(struct corsa_session *session)
{
	struct corsa_waiter waiter = { .id = CORSA_NONE, .exclusive = true };
	struct corsa_gate *gate = READ_ONCE(session->gate);
	long left;
	int ret;

	if (!gate)
		return 0;
	left = gate->patience;
	spin_lock(&gate->lock);
	ret = gate->over ? 0 : corsa_token_wait_locked(gate, &waiter, &left);
	spin_unlock(&gate->lock);
	return ret == -ETIMEDOUT ? -EBUSY : ret;
}

void corsa_gate_open(struct corsa_session *session)
{
	struct corsa_gate *gate = READ_ONCE(session->gate);

	if (!gate)
		return;
	spin_lock(&gate->lock);
	gate->exclusive = false;
	gate->ready = CORSA_NONE;
	gate->shut = READ_ONCE(session->held) && READ_ONCE(session->active);
	gate->generation++;
	corsa_token_grant_locked(gate);
	spin_unlock(&gate->lock);
	wake_up_all(&gate->changed);
}

void corsa_gate_look_again(struct corsa_session *session)
{
	struct corsa_gate *gate = READ_ONCE(session->gate);

	if (!gate)
		return;
	spin_lock(&gate->lock);
	gate->generation++;
	spin_unlock(&gate->lock);
	wake_up_all(&gate->changed);
}
