// SPDX-License-Identifier: GPL-2.0
/* From enabling the gate of a session to its end. */
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "binder_state.h"
#include "record.h"
#include "session.h"

static struct corsa_gate *create(struct corsa_session *session,
				 const struct corsa_binder_enable *args)
{
	struct corsa_gate *gate = kzalloc(sizeof(*gate), GFP_KERNEL_ACCOUNT);

	if (!gate)
		return NULL;
	gate->session = session;
	gate->key = args->key;
	gate->flags = args->flags;
	gate->patience = args->wait_ns ? nsecs_to_jiffies(args->wait_ns) + 1 :
					 CORSA_PATIENCE;
	gate->holder = CORSA_NONE;
	gate->ready = CORSA_NONE;
	mutex_init(&gate->driver);
	spin_lock_init(&gate->lock);
	INIT_LIST_HEAD(&gate->queue);
	INIT_LIST_HEAD(&gate->tickets);
	INIT_LIST_HEAD(&gate->spare);
	hash_init(gate->routes);
	hash_init(gate->node_table);
	INIT_LIST_HEAD(&gate->nodes);
	gate->shown = CORSA_NONE;
	init_waitqueue_head(&gate->changed);
	INIT_WORK(&gate->abort, corsa_abort_work);
	return gate;
}

static bool valid(const struct corsa_binder_enable *args)
{
	return !args->reserved && !(args->flags & ~CORSA_BINDER_F_ALL) &&
	       args->key && args->key <= CORSA_BINDER_KEY_MAX &&
	       (!(args->flags & CORSA_BINDER_ORIGIN) ||
		args->key == CORSA_BINDER_EUID);
}

long corsa_gate_enable(struct corsa_session *session,
		       struct corsa_binder_enable *args)
{
	struct corsa_record *record;
	struct corsa_gate *gate;
	int ret;

	if (!valid(args))
		return -EINVAL;
	if (session->gate)
		return -EALREADY;
	record = session->active;
	if (session->record_count != 1 || !record)
		return -EBUSY;
	ret = corsa_hook_driver();
	if (ret)
		return ret;
	gate = create(session, args);
	if (!gate)
		return -ENOMEM;
	gate->shadow = corsa_shadow_create(record->mm);
	if (IS_ERR(gate->shadow)) {
		ret = PTR_ERR(gate->shadow);
		kfree(gate);
		return ret;
	}
	gate->proc_count = corsa_shadow_procs(gate->shadow, gate->procs);
	gate->refs = corsa_refs_create();
	ret = gate->refs ? corsa_refs_begin(gate, record->id) : -ENOMEM;
	if (ret) {
		corsa_shadow_put(gate->shadow);
		corsa_refs_free(gate->refs);
		kfree(gate);
		return ret;
	}
	gate->last_common_node = corsa_driver_last_node(gate);
	args->devices = gate->proc_count;
	args->hook = corsa_hook_kind();
	/* Probes may use it from here on. */
	smp_store_release(&session->gate, gate);
	return 0;
}

void corsa_gate_over(struct corsa_session *session)
{
	struct corsa_gate *gate = READ_ONCE(session->gate);

	if (!gate)
		return;
	spin_lock(&gate->lock);
	gate->over = true;
	gate->generation++;
	corsa_token_grant_locked(gate);
	spin_unlock(&gate->lock);
	wake_up_all(&gate->changed);
}

void corsa_gate_end(struct corsa_session *session)
{
	struct corsa_gate *gate = READ_ONCE(session->gate);
	struct corsa_record *crashed;

	if (!gate)
		return;
	corsa_refs_end(gate);
	mutex_lock(&gate->driver);
	spin_lock(&gate->lock);
	gate->proc_count = 0;
	crashed = gate->crashed;
	gate->crashed = NULL;
	spin_unlock(&gate->lock);
	mutex_unlock(&gate->driver);
	if (crashed)
		corsa_record_put(crashed);
	corsa_tickets_drop(gate);
	corsa_nodes_end(gate);
	corsa_shadow_put(gate->shadow);
	gate->shadow = NULL;
}

/*
 * Those who found the gate have a reference, or are under RCU. It is waited for
 * here, and not in a callback: refs has locks that are not for softirqs.
 */
void corsa_gate_free(struct corsa_session *session)
{
	struct corsa_gate *gate = session->gate;

	if (!gate)
		return;
	synchronize_rcu();
	corsa_routes_free(gate);
	/* Callers that were turned away at the end have given theirs back since. */
	corsa_tickets_drop(gate);
	corsa_refs_free(gate->refs);
	kfree(gate);
}
