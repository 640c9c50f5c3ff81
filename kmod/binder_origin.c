// SPDX-License-Identifier: GPL-2.0
/* Which app does a transaction come from? */
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/sched/signal.h>

#include "binder_internal.h"
#include "binder_state.h"

/*
 * Current waits for t, so it is still handling what t was sent from, and that
 * one's sender waits as well: none of the chain can go away.
 */
static const struct binder_transaction *
first_of(const struct binder_transaction *t)
{
	while (t->from_parent)
		t = t->from_parent;
	return t;
}

static u64 cgroup_of_current(void)
{
	u64 id;

	rcu_read_lock();
	id = cgroup_id(task_dfl_cgroup(current));
	rcu_read_unlock();
	return id;
}

u64 corsa_origin_key(const struct corsa_gate *gate,
		     const struct binder_transaction *t)
{
	switch (gate->key) {
	case CORSA_BINDER_PID:
		return task_tgid_nr(current);
	case CORSA_BINDER_CGROUP:
		return cgroup_of_current();
	}
	if (gate->flags & CORSA_BINDER_ORIGIN)
		t = first_of(t);
	return from_kuid(&init_user_ns, t->sender_euid);
}
