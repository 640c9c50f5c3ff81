// SPDX-License-Identifier: GPL-2.0
/*
 * The activation token of a gate.
 *
 * It belongs to one instance at a time, and is held as many times as that
 * instance has transactions in progress; or to a request that wants none to be.
 * Who cannot have it waits in one queue, first come first served. When the
 * token passes to another instance, all that wait for that instance then go on
 * with the first: it costs the others one round, not a switch each.
 */
#include <linux/freezer.h>
#include <linux/sched/signal.h>

#include "binder_state.h"

static bool blocked(const struct corsa_gate *gate)
{
	return gate->shut || gate->aborting;
}

bool corsa_token_free_locked(const struct corsa_gate *gate, u32 id)
{
	lockdep_assert_held(&gate->lock);
	if (gate->exclusive || blocked(gate) || !list_empty(&gate->queue))
		return false;
	return !gate->count || gate->holder == id;
}

void corsa_token_take_locked(struct corsa_gate *gate, u32 id)
{
	lockdep_assert_held(&gate->lock);
	gate->holder = id;
	gate->count++;
}

void corsa_token_give_locked(struct corsa_gate *gate)
{
	lockdep_assert_held(&gate->lock);
	if (!--gate->count)
		corsa_token_grant_locked(gate);
}

/* It leaves the queue as the owner of the token, or with a refusal. */
static void release(struct corsa_gate *gate, struct corsa_waiter *waiter)
{
	list_del_init(&waiter->link);
	gate->stats.waiting--;
	/* It cannot be gone before the lock is dropped. */
	wake_up_process(waiter->task);
}

static void admit(struct corsa_gate *gate, struct corsa_waiter *waiter)
{
	if (waiter->exclusive)
		gate->exclusive = true;
	else
		corsa_token_take_locked(gate, waiter->id);
	waiter->granted = true;
	release(gate, waiter);
}

void corsa_token_grant_locked(struct corsa_gate *gate)
{
	struct corsa_waiter *waiter, *next;
	bool passes = !gate->count;

	lockdep_assert_held(&gate->lock);
	list_for_each_entry_safe(waiter, next, &gate->queue, link) {
		if (gate->over) {
			release(gate, waiter);
			continue;
		}
		if (gate->exclusive)
			break;
		if (waiter->exclusive) {
			if (!gate->count && !gate->aborting)
				admit(gate, waiter);
			/* Those behind it wait for it. */
			break;
		}
		if (gate->aborting && waiter->own) {
			waiter->refused = true;
			release(gate, waiter);
			continue;
		}
		if (blocked(gate))
			continue;
		if (!gate->count || gate->holder == waiter->id)
			admit(gate, waiter);
		else if (!passes)
			break;
	}
}

void corsa_token_share_locked(struct corsa_gate *gate)
{
	struct corsa_waiter *waiter, *next;

	lockdep_assert_held(&gate->lock);
	list_for_each_entry_safe(waiter, next, &gate->queue, link)
		if (!waiter->exclusive && waiter->id == gate->holder &&
		    !blocked(gate))
			admit(gate, waiter);
}

bool corsa_token_wanted_locked(const struct corsa_gate *gate)
{
	struct corsa_waiter *first;

	if (list_empty(&gate->queue))
		return false;
	first = list_first_entry(&gate->queue, struct corsa_waiter, link);
	return !first->exclusive && first->id != gate->holder;
}

/* Set by release() under the lock; read without it to end the sleep. */
static bool in_queue(struct corsa_waiter *waiter)
{
	return !list_empty_careful(&waiter->link);
}

int corsa_token_wait_locked(struct corsa_gate *gate, struct corsa_waiter *waiter,
			    long *left) __must_hold(&gate->lock)
{
	u64 begin = ktime_get_ns(), waited;
	int ret = 0;

	waiter->task = current;
	waiter->granted = false;
	waiter->refused = false;
	list_add_tail(&waiter->link, &gate->queue);
	gate->stats.waiting++;
	gate->stats.waits++;
	corsa_token_grant_locked(gate);
	spin_unlock(&gate->lock);

	for (;;) {
		set_current_state(TASK_KILLABLE | TASK_FREEZABLE);
		if (!in_queue(waiter) || fatal_signal_pending(current) || !*left)
			break;
		*left = schedule_timeout(*left);
	}
	__set_current_state(TASK_RUNNING);
	waited = ktime_get_ns() - begin;

	spin_lock(&gate->lock);
	gate->stats.wait_ns += waited;
	gate->stats.longest_wait_ns = max(gate->stats.longest_wait_ns, waited);
	if (waiter->granted || gate->over)
		goto out;
	if (waiter->refused)
		ret = -ECANCELED;
	else if (fatal_signal_pending(current))
		ret = -EINTR;
	else
		ret = -ETIMEDOUT;
out:
	if (in_queue(waiter)) {
		list_del_init(&waiter->link);
		gate->stats.waiting--;
		/* It may have been the one in the way. */
		corsa_token_grant_locked(gate);
	}
	return ret;
}
