// SPDX-License-Identifier: GPL-2.0
/*
 * How often each record has acquired each handle. See binder_ref.c.
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "binder_ref.h"

/* A reference as the driver has it. */
struct seen_ref {
	struct binder_ref_data data;
	bool death;
};

struct binder_ref *corsa_ref_find_olocked(struct binder_proc *proc, u32 desc)
{
	struct rb_node *link = proc->refs_by_desc.rb_node;
	struct binder_ref *ref;

	while (link) {
		ref = rb_entry(link, struct binder_ref, rb_node_desc);
		if (desc == ref->data.desc)
			return ref;
		link = desc < ref->data.desc ? link->rb_left : link->rb_right;
	}
	return NULL;
}

/* All references of the process; to be freed. NULL: no memory. */
static struct seen_ref *look(struct binder_proc *proc, u32 *count)
{
	struct seen_ref *seen = NULL;
	struct binder_ref *ref;
	struct rb_node *link;
	u32 cap = 0, n;

	do {
		kvfree(seen);
		cap = cap ? cap * 2 : 64;
		seen = kvmalloc_array(cap, sizeof(*seen), GFP_KERNEL_ACCOUNT);
		if (!seen)
			return NULL;
		n = 0;
		spin_lock(&proc->outer_lock);
		for (link = rb_first(&proc->refs_by_desc); link;
		     link = rb_next(link), n++) {
			if (n >= cap)
				continue;
			ref = rb_entry(link, struct binder_ref, rb_node_desc);
			seen[n].data = ref->data;
			seen[n].death = ref->death;
		}
		spin_unlock(&proc->outer_lock);
	} while (n > cap);
	*count = n;
	return seen;
}

static struct corsa_handle *find_handle(const struct corsa_refs *refs,
					const struct binder_proc *proc, u32 desc)
{
	struct corsa_handle *handle;

	hash_for_each_possible(refs->handles, handle, hash, desc)
		if (handle->proc == proc && handle->desc == desc)
			return handle;
	return NULL;
}

struct share *corsa_share_of(struct corsa_handle *handle, u32 id)
{
	struct share *share = xa_load(&handle->shares, id);

	if (share)
		return share;
	share = kzalloc(sizeof(*share), GFP_KERNEL_ACCOUNT);
	if (share && xa_err(xa_store(&handle->shares, id, share,
				     GFP_KERNEL_ACCOUNT))) {
		kfree(share);
		share = NULL;
	}
	return share;
}

void corsa_handle_free(struct corsa_refs *refs, struct corsa_handle *handle)
{
	struct share *share;
	unsigned long id;

	xa_for_each(&handle->shares, id, share) {
		corsa_death_free(refs, share->death);
		kfree(share);
	}
	xa_destroy(&handle->shares);
	hash_del(&handle->hash);
	kfree(handle);
}

static struct corsa_handle *handle_of(struct corsa_refs *refs,
				      struct binder_proc *proc,
				      const struct binder_ref_data *data)
{
	struct corsa_handle *handle = find_handle(refs, proc, data->desc);

	/* The number has been given to another object: nobody had it any more. */
	if (handle && handle->debug_id != data->debug_id) {
		corsa_handle_free(refs, handle);
		handle = NULL;
	}
	if (handle)
		return handle;
	handle = kzalloc(sizeof(*handle), GFP_KERNEL_ACCOUNT);
	if (!handle)
		return NULL;
	handle->proc = proc;
	handle->desc = data->desc;
	handle->debug_id = data->debug_id;
	xa_init(&handle->shares);
	hash_add(refs->handles, &handle->hash, data->desc);
	return handle;
}

/* How often the handle is in transactions that nobody has seen yet. */
static int count_floating(struct corsa_refs *refs,
			  const struct binder_proc *proc, u32 desc)
{
	struct floating *floating;
	int count = 0;

	spin_lock(&refs->lock);
	list_for_each_entry(floating, &refs->floating, link)
		count += floating->proc == proc && floating->desc == desc;
	spin_unlock(&refs->lock);
	return count;
}

bool corsa_ref_add(struct corsa_handle *handle, int strong, int weak)
{
	struct binder_proc *proc = handle->proc;
	struct binder_ref *ref;
	bool ret;

	spin_lock(&proc->outer_lock);
	ref = corsa_ref_find_olocked(proc, handle->desc);
	ret = ref && ref->data.debug_id == handle->debug_id &&
	      (!strong || ref->data.strong) && (!weak || ref->data.weak);
	if (ret) {
		ref->data.strong += strong;
		ref->data.weak += weak;
		handle->strong += strong;
		handle->weak += weak;
	}
	spin_unlock(&proc->outer_lock);
	return ret;
}

/* The last of each is left to the driver: it does what has to be done then. */
void corsa_ref_subtract(struct corsa_handle *handle, int strong, int weak)
{
	struct binder_proc *proc = handle->proc;
	bool last_strong = false, last_weak = false;
	struct binder_ref *ref;

	spin_lock(&proc->outer_lock);
	ref = corsa_ref_find_olocked(proc, handle->desc);
	if (ref && ref->data.debug_id == handle->debug_id) {
		strong = min(strong, ref->data.strong);
		weak = min(weak, ref->data.weak);
		last_strong = strong && strong == ref->data.strong;
		last_weak = weak && weak == ref->data.weak;
		ref->data.strong -= strong - last_strong;
		ref->data.weak -= weak - last_weak;
		handle->strong -= strong;
		handle->weak -= weak;
	}
	spin_unlock(&proc->outer_lock);
	if (last_strong)
		corsa_driver_drop_ref(proc, handle->desc, true);
	if (last_weak)
		corsa_driver_drop_ref(proc, handle->desc, false);
}

/* Gives the record what has been added, or takes from it what is gone. */
static void charge(struct corsa_refs *refs, struct corsa_handle *handle,
		   const struct binder_ref_data *data, u32 id)
{
	int strong = data->strong - handle->strong -
		     count_floating(refs, handle->proc, handle->desc);
	int weak = data->weak - handle->weak;
	struct share *share;

	if (!strong && !weak)
		return;
	share = corsa_share_of(handle, id);
	if (!share) {
		pr_warn_ratelimited("corsa: no memory to follow handle %u\n",
				    handle->desc);
		return;
	}
	handle->strong += strong;
	handle->weak += weak;
	share->strong += strong;
	share->weak += weak;
	/* It has released what was not its own. */
	if (share->strong < 0 && corsa_ref_add(handle, -share->strong, 0))
		share->strong = 0;
	if (share->weak < 0 && corsa_ref_add(handle, 0, -share->weak))
		share->weak = 0;
}

static void forget_unseen(struct corsa_refs *refs, struct binder_proc *proc)
{
	struct corsa_handle *handle;
	struct hlist_node *next;
	int bucket;

	hash_for_each_safe(refs->handles, bucket, next, handle, hash) {
		if (handle->proc == proc && !handle->seen)
			corsa_handle_free(refs, handle);
		else if (handle->proc == proc)
			handle->seen = false;
	}
}

int corsa_refs_settle(struct corsa_gate *gate)
{
	struct corsa_refs *refs = gate->refs;
	struct corsa_handle *handle;
	struct seen_ref *seen;
	u32 i, k, count;

	WRITE_ONCE(refs->touched, false);
	refs->given = 0;
	for (i = 0; i < gate->proc_count; i++) {
		seen = look(gate->procs[i], &count);
		if (!seen) {
			WRITE_ONCE(refs->touched, true);
			return -ENOMEM;
		}
		for (k = 0; k < count; k++) {
			handle = handle_of(refs, gate->procs[i], &seen[k].data);
			if (!handle)
				continue;
			handle->seen = true;
			handle->death = seen[k].death;
			refs->given += handle->death;
			charge(refs, handle, &seen[k].data, refs->viewer);
		}
		forget_unseen(refs, gate->procs[i]);
		kvfree(seen);
	}
	return 0;
}
