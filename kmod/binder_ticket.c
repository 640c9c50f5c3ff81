// SPDX-License-Identifier: GPL-2.0
/* Tickets: which transactions are in progress, and when they are over. */
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "binder_internal.h"
#include "binder_state.h"
#include "session.h"
#include "thread.h"

/* So many are kept; more are allocated when they are needed. */
#define SPARE_MAX 256

static DEFINE_HASHTABLE(table, 10);
static DEFINE_SPINLOCK(table_lock); /* inside gate->lock */

/* A transaction between two processes with gates has a ticket in each. */
#define GATES_MAX 2

struct corsa_ticket *corsa_ticket_alloc(struct corsa_gate *gate)
{
	struct corsa_ticket *ticket;

	spin_lock(&gate->lock);
	ticket = list_first_entry_or_null(&gate->spare, struct corsa_ticket,
					  link);
	if (ticket) {
		list_del(&ticket->link);
		gate->spare_count--;
	}
	spin_unlock(&gate->lock);
	if (!ticket)
		ticket = kmalloc(sizeof(*ticket), GFP_KERNEL_ACCOUNT);
	if (ticket)
		*ticket = (struct corsa_ticket){ .gate = gate };
	return ticket;
}

void corsa_ticket_free_locked(struct corsa_ticket *ticket)
{
	struct corsa_gate *gate = ticket->gate;

	if (gate->spare_count == SPARE_MAX) {
		kfree(ticket);
		return;
	}
	list_add(&ticket->link, &gate->spare);
	gate->spare_count++;
}

void corsa_ticket_put_in_locked(struct corsa_ticket *ticket)
{
	list_add_tail(&ticket->link, &ticket->gate->tickets);
	spin_lock(&table_lock);
	hash_add(table, &ticket->node, ticket->debug_id);
	spin_unlock(&table_lock);
}

void corsa_ticket_take_out_locked(struct corsa_ticket *ticket)
{
	spin_lock(&table_lock);
	hash_del(&ticket->node);
	spin_unlock(&table_lock);
	list_del(&ticket->link);
	corsa_token_give_locked(ticket->gate);
}

void corsa_ticket_release_locked(struct corsa_ticket *ticket)
{
	corsa_ticket_take_out_locked(ticket);
	corsa_ticket_free_locked(ticket);
}

struct corsa_ticket *corsa_ticket_find_locked(struct corsa_gate *gate,
					      int debug_id)
{
	struct corsa_ticket *ticket;

	list_for_each_entry(ticket, &gate->tickets, link)
		if (ticket->debug_id == debug_id)
			return ticket;
	return NULL;
}

void corsa_tickets_drop(struct corsa_gate *gate)
{
	struct corsa_ticket *ticket, *next;

	spin_lock(&gate->lock);
	list_for_each_entry_safe(ticket, next, &gate->tickets, link)
		corsa_ticket_release_locked(ticket);
	list_for_each_entry_safe(ticket, next, &gate->spare, link)
		kfree(ticket);
	INIT_LIST_HEAD(&gate->spare);
	gate->spare_count = 0;
	spin_unlock(&gate->lock);
}

void corsa_ticket_forget(struct corsa_gate *gate, int debug_id)
{
	struct corsa_ticket *ticket;

	spin_lock(&gate->lock);
	ticket = corsa_ticket_find_locked(gate, debug_id);
	if (ticket)
		corsa_ticket_release_locked(ticket);
	spin_unlock(&gate->lock);
}

/* Each with a reference to its session. Most transactions are none of ours. */
static int find_gates(int debug_id, struct corsa_gate **gates)
{
	struct corsa_ticket *ticket;
	int count = 0;

	/* It was put in before the driver got to know of the transaction. */
	if (hlist_empty(&table[hash_min(debug_id, HASH_BITS(table))]))
		return 0;
	spin_lock(&table_lock);
	hash_for_each_possible(table, ticket, node, debug_id)
		if (ticket->debug_id == debug_id && count < GATES_MAX) {
			corsa_session_get(ticket->gate->session);
			gates[count++] = ticket->gate;
		}
	spin_unlock(&table_lock);
	return count;
}

static void for_tickets(int debug_id,
			void (*act)(struct corsa_ticket *, const void *),
			const void *data)
{
	struct corsa_gate *gates[GATES_MAX];
	struct corsa_ticket *ticket;
	int count = find_gates(debug_id, gates);

	while (count--) {
		spin_lock(&gates[count]->lock);
		ticket = corsa_ticket_find_locked(gates[count], debug_id);
		if (ticket)
			act(ticket, data);
		spin_unlock(&gates[count]->lock);
		corsa_session_put(gates[count]->session);
	}
}

/* The token is kept until `by` has read what the driver has for it. */
static void linger_locked(struct corsa_ticket *ticket, pid_t by)
{
	ticket->over = true;
	ticket->by = by;
}

static void queued_locked(struct corsa_ticket *ticket, const void *data)
{
	bool queued = *(const bool *)data;

	if (ticket->outgoing) {
		if (!queued || ticket->oneway)
			linger_locked(ticket, ticket->by);
	} else if (!queued) {
		corsa_ticket_release_locked(ticket);
	} else if (ticket->gate->ready != ticket->id) {
		/* A crash came in between. */
		corsa_abort_locked(ticket->gate);
	}
}

void corsa_ticket_queued(int debug_id, bool queued)
{
	for_tickets(debug_id, queued_locked, &queued);
}

static void ended_locked(struct corsa_ticket *ticket, const void *unused)
{
	struct corsa_session *session = ticket->gate->session;

	if (ticket->outgoing) {
		linger_locked(ticket, ticket->by);
		/* It may have read the reply already, and be gone. */
		if (ticket->by != task_pid_nr(current) &&
		    corsa_driver_idle_locked(ticket->gate, ticket->by))
			corsa_ticket_release_locked(ticket);
	} else if (ticket->oneway) {
		ticket->delivered = true;
	} else if (same_thread_group(current, session->leader)) {
		linger_locked(ticket, task_pid_nr(current));
	} else {
		corsa_ticket_release_locked(ticket);
	}
}

void corsa_ticket_ended(const struct binder_transaction *t)
{
	for_tickets(t->debug_id, ended_locked, NULL);
}

static void buffer_freed_locked(struct corsa_ticket *ticket, const void *unused)
{
	if (ticket->oneway && !ticket->outgoing)
		corsa_ticket_release_locked(ticket);
}

void corsa_ticket_buffer_freed(const struct binder_buffer *buffer)
{
	for_tickets(buffer->debug_id, buffer_freed_locked, NULL);
}

static void received_locked(struct corsa_ticket *ticket, const void *unused)
{
	if (ticket->outgoing)
		ticket->receiver = current;
}

void corsa_ticket_received(const struct binder_transaction *t)
{
	for_tickets(t->debug_id, received_locked, NULL);
}

static bool lingers_locked(const struct corsa_gate *gate, pid_t tid)
{
	struct corsa_ticket *ticket;

	list_for_each_entry(ticket, &gate->tickets, link)
		if (ticket->over && ticket->by == tid)
			return true;
	return false;
}

static void release_lingering_locked(struct corsa_gate *gate, pid_t tid)
{
	struct corsa_ticket *ticket, *next;

	list_for_each_entry_safe(ticket, next, &gate->tickets, link)
		if (ticket->over && ticket->by == tid)
			corsa_ticket_release_locked(ticket);
}

void corsa_ticket_ioctl_done(void)
{
	struct corsa_thread *thread;
	struct corsa_gate *gate;
	pid_t tid = task_pid_nr(current);

	rcu_read_lock();
	thread = corsa_thread_of(current);
	gate = thread ? READ_ONCE(thread->session->gate) : NULL;
	if (!gate || !READ_ONCE(gate->count))
		goto unlock;
	spin_lock(&gate->lock);
	if (lingers_locked(gate, tid) && corsa_driver_idle_locked(gate, tid)) {
		/*
		 * It cannot get back into the driver without running our work
		 * first: so whoever switches need not wait for it.
		 */
		if (gate->count == 1 && corsa_token_wanted_locked(gate)) {
			WRITE_ONCE(thread->leaving, true);
			corsa_thread_kick(thread);
		}
		release_lingering_locked(gate, tid);
	}
	spin_unlock(&gate->lock);
unlock:
	rcu_read_unlock();
}

void corsa_gate_thread_died(struct corsa_thread *thread)
{
	struct corsa_gate *gate = READ_ONCE(thread->session->gate);
	pid_t tid = task_pid_nr(thread->task);
	struct corsa_ticket *ticket, *next;

	if (!gate)
		return;
	spin_lock(&gate->lock);
	list_for_each_entry_safe(ticket, next, &gate->tickets, link)
		if (ticket->by == tid && (ticket->over || ticket->outgoing))
			corsa_ticket_release_locked(ticket);
	spin_unlock(&gate->lock);
}
