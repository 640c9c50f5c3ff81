// SPDX-License-Identifier: GPL-2.0
/*
 * The end of what was in progress in an instance that has crashed.
 *
 * Its threads are parked, and so will never reply. The driver knows nothing of
 * that, as the process lives: the transactions are ended in its place, by a
 * worker, when no thread of the instance is in the driver any more.
 */
#include <linux/sched/signal.h>

#include "binder_state.h"
#include "record.h"
#include "session.h"
#include "thread.h"

void corsa_abort_locked(struct corsa_gate *gate)
{
	lockdep_assert_held(&gate->lock);
	if (!gate->crashed)
		return; /* nothing has, so it is not active for another reason */
	gate->aborting = true;
	corsa_session_get(gate->session);
	if (!queue_work(corsa_workqueue, &gate->abort))
		corsa_session_put(gate->session);
	/* Threads of the instance that want to call others need not wait. */
	corsa_token_grant_locked(gate);
}

/* It will never be known to have been carried out. */
static void untally_locked(struct corsa_gate *gate, u32 id)
{
	struct corsa_ticket *ticket;

	list_for_each_entry(ticket, &gate->tickets, link) {
		if (ticket->id != id || ticket->over || ticket->delivered)
			continue;
		corsa_route_tally_locked(gate, ticket, -1);
		ticket->routed = false;
	}
}

void corsa_gate_crashed(struct corsa_record *record)
{
	struct corsa_session *session = record->session;
	struct corsa_gate *gate = READ_ONCE(session->gate);
	struct corsa_record *former;

	if (!gate)
		return;
	spin_lock(&gate->lock);
	gate->ready = CORSA_NONE;
	former = gate->crashed;
	gate->crashed = corsa_record_get(record);
	untally_locked(gate, record->id);
	corsa_abort_locked(gate);
	spin_unlock(&gate->lock);
	if (former)
		corsa_record_put(former);
}

/* The tickets of what the crashed instance called itself. */
static void release_outgoing(struct corsa_gate *gate)
{
	struct corsa_ticket *ticket, *next;

	spin_lock(&gate->lock);
	list_for_each_entry_safe(ticket, next, &gate->tickets, link)
		if (ticket->outgoing || ticket->over)
			corsa_ticket_release_locked(ticket);
	spin_unlock(&gate->lock);
}

/* Its threads leave the driver, are parked, or become another instance. */
static bool deserted(struct corsa_session *session, struct corsa_record *record)
{
	return !READ_ONCE(record->awake) || READ_ONCE(session->over);
}

void corsa_abort_work(struct work_struct *work)
{
	struct corsa_gate *gate = container_of(work, struct corsa_gate, abort);
	struct corsa_session *session = gate->session;
	struct corsa_record *record;
	u32 before;

	spin_lock(&gate->lock);
	record = gate->crashed;
	if (record)
		corsa_record_get(record);
	before = gate->count;
	spin_unlock(&gate->lock);
	if (record) {
		/* Behind the back of a thread in the driver nothing is safe. */
		while (!wait_event_timeout(session->waiting,
					   deserted(session, record),
					   CORSA_PATIENCE))
			pr_warn_ratelimited("corsa: a thread of process %d does not leave instance %u, which has crashed\n",
					    task_tgid_nr(session->leader),
					    record->id);
		corsa_record_put(record);
	}
	mutex_lock(&gate->driver);
	corsa_driver_abort(gate);
	mutex_unlock(&gate->driver);
	release_outgoing(gate);
	spin_lock(&gate->lock);
	gate->aborting = false;
	gate->generation++;
	gate->stats.aborted += before - min(before, gate->count);
	corsa_token_grant_locked(gate);
	spin_unlock(&gate->lock);
	wake_up_all(&gate->changed);
	corsa_session_put(session);
}
