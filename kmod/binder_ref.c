// SPDX-License-Identifier: GPL-2.0
/*
 * Handles: what the process holds of objects of others.
 *
 * The driver counts for each handle how often the process has acquired it, and
 * gives the number to another object when nothing is left. Instances are copies
 * of each other that acquire and release on their own, and each of them expects
 * that what it has not released is there. So the driver's count is the sum of
 * what all records have, images included: a copy adds what its source had, and
 * the end of a record takes away what it had left. The driver knows nothing of
 * records; but only one instance is in it at a time, so whatever has changed
 * since the last look is due to that one.
 *
 * A request to be told of an object's death is a pointer of one instance, and
 * the driver keeps at most one for each handle. Those of the instance that is
 * in the driver are there, those of the others are kept here, with what the
 * driver had to say about them.
 *
 * Everything holds session->control, except for what is called by probes.
 */
#include <linux/slab.h>

#include "binder_ref.h"
#include "session.h"
#include "thread.h"

static int copy_share(struct corsa_refs *refs, struct corsa_handle *handle,
		      struct share *source, u32 to)
{
	struct share *share = corsa_share_of(handle, to);

	if (!share)
		return -ENOMEM;
	if (source->death) {
		share->death = corsa_death_copy(source->death);
		if (!share->death)
			return -ENOMEM;
		refs->kept++;
	}
	if (!corsa_ref_add(handle, source->strong, source->weak))
		return 0; /* it has none */
	share->strong = source->strong;
	share->weak = source->weak;
	return 0;
}

/* The record has nothing any more. */
static void drop(struct corsa_refs *refs, u32 id)
{
	struct corsa_handle *handle;
	struct share *share;
	int bucket;

	hash_for_each(refs->handles, bucket, handle, hash) {
		share = xa_erase(&handle->shares, id);
		if (!share)
			continue;
		corsa_death_free(refs, share->death);
		corsa_ref_subtract(handle, max(share->strong, 0), max(share->weak, 0));
		kfree(share);
	}
	corsa_deaths_free(refs, id);
}

static void rename(struct corsa_refs *refs, u32 from, u32 to)
{
	struct parked_deaths *parked = xa_load(&refs->parked, from);
	struct corsa_handle *handle;
	struct share *share;
	int bucket;

	/*
	 * The entries were made when the copy was. Without memory for these few
	 * bytes what the record has is kept until the end of the session.
	 */
	hash_for_each(refs->handles, bucket, handle, hash) {
		share = xa_load(&handle->shares, from);
		if (share && !xa_err(xa_store(&handle->shares, to, share,
					      GFP_KERNEL_ACCOUNT)))
			xa_erase(&handle->shares, from);
	}
	if (parked && !xa_err(xa_store(&refs->parked, to, parked,
				       GFP_KERNEL_ACCOUNT)))
		xa_erase(&refs->parked, from);
}

bool corsa_refs_in_the_way(struct corsa_gate *gate, u32 id)
{
	const struct corsa_refs *refs = gate->refs;

	return refs->viewer != id &&
	       (READ_ONCE(refs->touched) || refs->kept || refs->given);
}

void corsa_refs_show(struct corsa_gate *gate, u32 id)
{
	if (gate->refs->viewer == id)
		return;
	if (corsa_refs_in_the_way(gate, id) &&
	    (corsa_refs_settle(gate) || corsa_deaths_hide(gate)))
		pr_warn_ratelimited("corsa: no memory to exchange handles: instance %u has those of %u\n",
				    id, gate->refs->viewer);
	corsa_deaths_show(gate, id);
}

int corsa_refs_copied(struct corsa_session *session, u32 from, u32 to)
{
	struct corsa_gate *gate = session->gate;
	struct corsa_handle *handle;
	struct corsa_refs *refs;
	struct share *share;
	int bucket, ret = 0;
	bool viewed;

	if (!gate)
		return 0;
	refs = gate->refs;
	viewed = refs->viewer == from;
	if (viewed)
		ret = corsa_refs_settle(gate) ?: corsa_deaths_hide(gate);
	if (ret)
		return ret;
	hash_for_each(refs->handles, bucket, handle, hash) {
		share = xa_load(&handle->shares, from);
		if (share && !ret)
			ret = copy_share(refs, handle, share, to);
	}
	if (!ret)
		ret = corsa_deaths_copy(refs, from, to);
	if (ret)
		drop(refs, to);
	if (viewed)
		corsa_deaths_show(gate, from);
	return ret;
}

void corsa_refs_dropped(struct corsa_session *session, u32 id)
{
	struct corsa_gate *gate = session->gate;

	if (!gate)
		return;
	if (gate->refs->viewer == id &&
	    (corsa_refs_settle(gate) || corsa_deaths_hide(gate)))
		pr_warn_ratelimited("corsa: no memory to take back the handles of record %u\n",
				    id);
	drop(gate->refs, id);
}

void corsa_refs_replaced(struct corsa_session *session, u32 id, u32 by)
{
	struct corsa_gate *gate = session->gate;
	bool viewed;

	if (!gate)
		return;
	viewed = gate->refs->viewer == id;
	corsa_refs_dropped(session, id);
	rename(gate->refs, by, id);
	if (viewed)
		corsa_deaths_show(gate, id);
}

/* Probes: preemption is off, and the driver holds no lock. */

static struct corsa_gate *gate_rcu(struct task_struct *task)
{
	struct corsa_session *session = corsa_session_of(task);

	return session ? READ_ONCE(session->gate) : NULL;
}

void corsa_refs_touch(void)
{
	struct corsa_gate *gate;

	rcu_read_lock();
	gate = gate_rcu(current);
	if (gate && !READ_ONCE(gate->refs->touched))
		WRITE_ONCE(gate->refs->touched, true);
	rcu_read_unlock();
}

void corsa_refs_sent(const struct binder_transaction *t, u32 desc)
{
	struct floating *floating = NULL;
	struct corsa_gate *gate;

	rcu_read_lock();
	gate = t->to_proc ? gate_rcu(t->to_proc->tsk) : NULL;
	if (!gate)
		goto unlock;
	WRITE_ONCE(gate->refs->touched, true);
	/* A reply goes to whoever waits for it, who is active. */
	if (t->buffer->target_node)
		floating = kmalloc(sizeof(*floating), GFP_ATOMIC);
	if (!floating)
		goto unlock;
	floating->transaction = t->debug_id;
	floating->proc = t->to_proc;
	floating->desc = desc;
	spin_lock(&gate->refs->lock);
	list_add_tail(&floating->link, &gate->refs->floating);
	spin_unlock(&gate->refs->lock);
unlock:
	rcu_read_unlock();
}

void corsa_refs_arrived(struct corsa_gate *gate, int transaction)
{
	struct floating *floating, *next;

	if (list_empty_careful(&gate->refs->floating))
		return;
	spin_lock(&gate->refs->lock);
	list_for_each_entry_safe(floating, next, &gate->refs->floating, link)
		if (floating->transaction == transaction) {
			list_del(&floating->link);
			kfree(floating);
		}
	spin_unlock(&gate->refs->lock);
}

struct corsa_refs *corsa_refs_create(void)
{
	struct corsa_refs *refs = kzalloc(sizeof(*refs), GFP_KERNEL_ACCOUNT);

	if (!refs)
		return NULL;
	refs->viewer = CORSA_NONE;
	hash_init(refs->handles);
	xa_init(&refs->parked);
	spin_lock_init(&refs->lock);
	INIT_LIST_HEAD(&refs->floating);
	return refs;
}

int corsa_refs_begin(struct corsa_gate *gate, u32 id)
{
	int ret;

	gate->refs->viewer = id;
	ret = corsa_refs_settle(gate);
	/* Until the probes see the gate nobody is told of changes. */
	gate->refs->touched = true;
	return ret;
}

/* The viewer's stay with the process; the others took part in no more. */
void corsa_refs_end(struct corsa_gate *gate)
{
	struct corsa_refs *refs = gate->refs;
	struct corsa_handle *handle;
	struct hlist_node *next;
	struct share *share;
	unsigned long id;
	int bucket;

	if (corsa_refs_settle(gate))
		pr_warn("corsa: no memory to give handles back\n");
	hash_for_each_safe(refs->handles, bucket, next, handle, hash) {
		xa_for_each(&handle->shares, id, share)
			if (id != refs->viewer)
				corsa_ref_subtract(handle,
						   max(share->strong, 0),
						   max(share->weak, 0));
		corsa_handle_free(refs, handle);
	}
}

void corsa_refs_free(struct corsa_refs *refs)
{
	struct floating *floating, *next;
	struct corsa_handle *handle;
	struct parked_deaths *parked;
	struct hlist_node *node;
	unsigned long id;
	int bucket;

	if (!refs)
		return;
	hash_for_each_safe(refs->handles, bucket, node, handle, hash)
		corsa_handle_free(refs, handle);
	xa_for_each(&refs->parked, id, parked)
		corsa_deaths_free(refs, id);
	xa_destroy(&refs->parked);
	list_for_each_entry_safe(floating, next, &refs->floating, link)
		kfree(floating);
	kfree(refs);
}
