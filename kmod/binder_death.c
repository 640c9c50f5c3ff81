// SPDX-License-Identifier: GPL-2.0
/*
 * Requests to be told of deaths, and what the driver had to say about them, of
 * records that are not in the driver. See binder_ref.c.
 */
#include <linux/slab.h>

#include "binder_ref.h"

/* A notice is the work of its request. */
struct parked_deaths {
	struct list_head todo[CORSA_BINDER_DEVICES];
	struct list_head delivered[CORSA_BINDER_DEVICES];
};

static bool about_death(const struct binder_work *work)
{
	return work->type == BINDER_WORK_DEAD_BINDER ||
	       work->type == BINDER_WORK_DEAD_BINDER_AND_CLEAR ||
	       work->type == BINDER_WORK_CLEAR_DEATH_NOTIFICATION;
}

static void take_deaths(struct list_head *from, struct list_head *to)
{
	struct binder_work *work, *next;

	list_for_each_entry_safe(work, next, from, entry)
		if (about_death(work))
			list_move_tail(&work->entry, to);
}

static struct parked_deaths *parked_of(struct corsa_refs *refs, u32 id)
{
	struct parked_deaths *parked = xa_load(&refs->parked, id);
	u32 i;

	if (parked)
		return parked;
	parked = kmalloc(sizeof(*parked), GFP_KERNEL_ACCOUNT);
	if (!parked)
		return NULL;
	for (i = 0; i < CORSA_BINDER_DEVICES; i++) {
		INIT_LIST_HEAD(&parked->todo[i]);
		INIT_LIST_HEAD(&parked->delivered[i]);
	}
	if (xa_err(xa_store(&refs->parked, id, parked, GFP_KERNEL_ACCOUNT))) {
		kfree(parked);
		return NULL;
	}
	return parked;
}

static void lock_ref_node(struct binder_ref *ref)
	__acquires(&ref->node->lock) __acquires(&ref->proc->inner_lock)
{
	spin_lock(&ref->node->lock);
	spin_lock(&ref->proc->inner_lock);
}

static void unlock_ref_node(struct binder_ref *ref)
	__releases(&ref->proc->inner_lock) __releases(&ref->node->lock)
{
	spin_unlock(&ref->proc->inner_lock);
	spin_unlock(&ref->node->lock);
}

/* Takes the viewer's requests for this handle out of the driver. */
static void take_request(struct corsa_refs *refs, struct corsa_handle *handle)
{
	struct share *share = corsa_share_of(handle, refs->viewer);
	struct binder_proc *proc = handle->proc;
	struct binder_ref *ref;

	if (!share)
		return;
	spin_lock(&proc->outer_lock);
	ref = corsa_ref_find_olocked(proc, handle->desc);
	if (ref && ref->death) {
		lock_ref_node(ref);
		share->death = ref->death;
		ref->death = NULL;
		unlock_ref_node(ref);
		refs->kept++;
	}
	handle->death = false;
	spin_unlock(&proc->outer_lock);
}

static void take_notices(struct corsa_gate *gate, struct parked_deaths *parked)
{
	struct binder_thread *thread;
	struct rb_node *link;
	u32 i;

	for (i = 0; i < gate->proc_count; i++) {
		struct binder_proc *proc = gate->procs[i];

		spin_lock(&proc->inner_lock);
		take_deaths(&proc->todo, &parked->todo[i]);
		take_deaths(&proc->delivered_death, &parked->delivered[i]);
		for (link = rb_first(&proc->threads); link; link = rb_next(link)) {
			thread = rb_entry(link, struct binder_thread, rb_node);
			take_deaths(&thread->todo, &parked->todo[i]);
		}
		spin_unlock(&proc->inner_lock);
	}
}

int corsa_deaths_hide(struct corsa_gate *gate)
{
	struct corsa_refs *refs = gate->refs;
	struct corsa_handle *handle;
	struct parked_deaths *parked;
	int bucket;

	if (refs->viewer == CORSA_NONE)
		return 0;
	parked = parked_of(refs, refs->viewer);
	if (!parked)
		return -ENOMEM;
	hash_for_each(refs->handles, bucket, handle, hash)
		if (handle->death)
			take_request(refs, handle);
	take_notices(gate, parked);
	refs->given = 0;
	refs->viewer = CORSA_NONE;
	return 0;
}

/* The object may have died while nobody asked. */
static void give_request(struct corsa_refs *refs, struct corsa_handle *handle,
			 struct share *share)
{
	struct binder_proc *proc = handle->proc;
	struct binder_ref_death *death = share->death;
	struct binder_ref *ref;

	spin_lock(&proc->outer_lock);
	ref = corsa_ref_find_olocked(proc, handle->desc);
	if (ref && !ref->death) {
		lock_ref_node(ref);
		ref->death = death;
		/* Unless it was told already: the request outlives that. */
		if (!ref->node->proc &&
		    death->work.type != BINDER_WORK_DEAD_BINDER) {
			death->work.type = BINDER_WORK_DEAD_BINDER;
			list_add_tail(&death->work.entry, &proc->todo);
		}
		unlock_ref_node(ref);
		share->death = NULL;
		handle->death = true;
		refs->kept--;
		refs->given++;
	}
	spin_unlock(&proc->outer_lock);
}

void corsa_deaths_show(struct corsa_gate *gate, u32 id)
{
	struct corsa_refs *refs = gate->refs;
	struct parked_deaths *parked = xa_load(&refs->parked, id);
	struct corsa_handle *handle;
	struct share *share;
	int bucket;
	u32 i;

	refs->viewer = id;
	hash_for_each(refs->handles, bucket, handle, hash) {
		share = xa_load(&handle->shares, id);
		if (share && share->death)
			give_request(refs, handle, share);
	}
	for (i = 0; i < gate->proc_count; i++) {
		struct binder_proc *proc = gate->procs[i];

		spin_lock(&proc->inner_lock);
		if (parked) {
			list_splice_tail_init(&parked->todo[i], &proc->todo);
			list_splice_tail_init(&parked->delivered[i],
					      &proc->delivered_death);
		}
		/* It is asleep, in the former instance, and will look again. */
		if (!list_empty(&proc->todo))
			corsa_driver_wake_ilocked(proc);
		spin_unlock(&proc->inner_lock);
	}
}

/* A request and its notice are one object, which may be in a list. */
struct binder_ref_death *corsa_death_copy(const struct binder_ref_death *death)
{
	struct binder_ref_death *copy = kzalloc(sizeof(*copy), GFP_KERNEL);

	if (!copy)
		return NULL;
	INIT_LIST_HEAD(&copy->work.entry);
	copy->work.type = death->work.type;
	copy->cookie = death->cookie;
	return copy;
}

void corsa_death_free(struct corsa_refs *refs, struct binder_ref_death *death)
{
	if (!death)
		return;
	list_del_init(&death->work.entry);
	kfree(death);
	refs->kept--;
}

static struct binder_ref_death *request_copied(struct corsa_refs *refs,
					       struct binder_ref_death *death,
					       u32 from, u32 to)
{
	struct corsa_handle *handle;
	struct share *share;
	int bucket;

	hash_for_each(refs->handles, bucket, handle, hash) {
		share = xa_load(&handle->shares, from);
		if (share && share->death == death) {
			share = xa_load(&handle->shares, to);
			return share ? share->death : NULL;
		}
	}
	return NULL;
}

static int copy_notices(struct corsa_refs *refs, struct list_head *source,
			struct list_head *target, u32 from, u32 to)
{
	struct binder_ref_death *death, *copy;

	list_for_each_entry(death, source, work.entry) {
		copy = request_copied(refs, death, from, to);
		if (!copy) /* the request is taken back already */
			copy = corsa_death_copy(death);
		if (!copy)
			return -ENOMEM;
		list_add_tail(&copy->work.entry, target);
	}
	return 0;
}

int corsa_deaths_copy(struct corsa_refs *refs, u32 from, u32 to)
{
	struct parked_deaths *source = xa_load(&refs->parked, from);
	struct parked_deaths *target;
	int ret = 0;
	u32 i;

	if (!source)
		return 0;
	target = parked_of(refs, to);
	if (!target)
		return -ENOMEM;
	for (i = 0; i < CORSA_BINDER_DEVICES && !ret; i++) {
		ret = copy_notices(refs, &source->todo[i], &target->todo[i],
				   from, to);
		if (!ret)
			ret = copy_notices(refs, &source->delivered[i],
					   &target->delivered[i], from, to);
	}
	return ret;
}

static void free_notices(struct list_head *notices)
{
	struct binder_ref_death *death, *next;

	list_for_each_entry_safe(death, next, notices, work.entry) {
		list_del(&death->work.entry);
		kfree(death);
	}
}

void corsa_deaths_free(struct corsa_refs *refs, u32 id)
{
	struct parked_deaths *parked = xa_erase(&refs->parked, id);
	u32 i;

	for (i = 0; parked && i < CORSA_BINDER_DEVICES; i++) {
		free_notices(&parked->todo[i]);
		free_notices(&parked->delivered[i]);
	}
	kfree(parked);
}
