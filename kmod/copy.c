// SPDX-License-Identifier: GPL-2.0
/* Checkpoint, branch and restore. */
#include <linux/ktime.h>
#include <linux/memcontrol.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include "activate.h"
#include "binder_gate.h"
#include "attributes.h"
#include "copy.h"
#include "duplicate.h"
#include "files.h"
#include "record.h"
#include "session.h"
#include "still.h"
#include "swap.h"
#include "symbols.h"
#include "thread.h"

struct durations {
	u64 begin;
	u64 stopped;
	u64 dup_begin;
	u64 dup_end;
};

/* With a reference; NULL at the end. */
static struct corsa_thread *thread_from(struct corsa_record *record,
					unsigned long *index, u32 *fpu_size)
{
	struct corsa_session *session = record->session;
	struct corsa_thread *thread = NULL;
	struct corsa_state *state;

	spin_lock(&session->lock);
	state = xa_find(&record->states, index, ULONG_MAX, XA_PRESENT);
	if (state) {
		thread = corsa_thread_get(state->thread);
		*fpu_size = state->fpu_size;
	}
	spin_unlock(&session->lock);
	return thread;
}

/*
 * The threads stand still, but they can be killed, and then their states go.
 * So each is looked up anew when there is memory for its copy.
 */
static int copy_states(struct corsa_record *to, struct corsa_record *from)
{
	struct corsa_session *session = from->session;
	struct corsa_state *state, *copy;
	struct corsa_thread *thread;
	unsigned long index = 0;
	u32 fpu_size;
	int ret = 0;

	for (; !ret && (thread = thread_from(from, &index, &fpu_size)); index++) {
		copy = corsa_state_alloc_sized(thread, fpu_size,
					       GFP_KERNEL_ACCOUNT);
		corsa_thread_put(thread);
		if (!copy)
			return -ENOMEM;
		spin_lock(&session->lock);
		state = xa_load(&from->states, index);
		if (state)
			corsa_state_assign(copy, state);
		spin_unlock(&session->lock);
		ret = state ? xa_insert(&to->states, index, copy,
					GFP_KERNEL_ACCOUNT) : -ESRCH;
		if (ret)
			corsa_state_free(copy);
	}
	return ret;
}

static void copy_actions(struct corsa_record *to, struct corsa_record *from)
{
	struct corsa_session *session = from->session;
	struct sighand_struct *sighand;
	unsigned long flags;

	spin_lock(&session->lock);
	memcpy(to->actions, from->actions, sizeof(to->actions));
	memcpy(to->limits, from->limits, sizeof(to->limits));
	if (session->actions_of == from) {
		corsa_limits_save(session->leader, to->limits);
		sighand = corsa_call(__lock_task_sighand)(session->leader,
							  &flags);
		if (sighand) {
			__acquire(&sighand->siglock); /* sparse cannot know */
			memcpy(to->actions, sighand->action,
			       sizeof(to->actions));
			unlock_task_sighand(session->leader, &flags);
		}
	}
	spin_unlock(&session->lock);
}

/* The source is frozen. */
static int fill(struct corsa_record *to, struct corsa_record *from, u32 flags,
		struct corsa_refusals *refusals, struct durations *times)
{
	int ret;

	corsa_refuse_record(from, false, refusals);
	if (refusals->count)
		return -EOPNOTSUPP;
	ret = copy_states(to, from);
	if (ret)
		return ret;
	times->dup_begin = ktime_get_ns();
	to->mm = corsa_duplicate_mm(from->mm, from->session->leader,
				    flags & CORSA_COPY_WIPE);
	times->dup_end = ktime_get_ns();
	if (IS_ERR(to->mm)) {
		ret = PTR_ERR(to->mm);
		to->mm = NULL;
		return ret;
	}
	ret = corsa_shadow_map(from->session, to->mm);
	if (ret)
		return ret;
	to->files = corsa_files_copy(from->files,
				     flags & CORSA_COPY_SHARED_OFFSETS,
				     refusals);
	if (IS_ERR(to->files)) {
		ret = PTR_ERR(to->files);
		to->files = NULL;
		return ret;
	}
	to->fs = corsa_call(copy_fs_struct)(from->fs);
	if (!to->fs)
		return -ENOMEM;
	copy_actions(to, from);
	to->cred = get_cred(from->cred);
	to->recent = from->recent;
	to->parent = from->id;
	return 0;
}

/* On success the new record is in the table, which owns it. */
static struct corsa_record *copy_record(struct corsa_record *from, u32 flags,
					bool image,
					struct corsa_refusals *refusals,
					struct durations *times)
{
	struct corsa_session *session = from->session;
	struct mem_cgroup *memcg, *former;
	struct corsa_record *to;
	int ret;

	if (flags & ~CORSA_COPY_F_ALL || from->crashed || from->broken)
		return ERR_PTR(-EINVAL);
	times->begin = ktime_get_ns();
	/* The service pays for its copies, whoever makes them. */
	memcg = get_mem_cgroup_from_mm(from->mm);
	former = set_active_memcg(memcg);
	to = corsa_record_create(session);
	ret = -ENOMEM;
	if (!to)
		goto reset_memcg;
	to->image = image;
	ret = corsa_freeze(from);
	if (ret)
		goto put_record;
	times->stopped = ktime_get_ns();
	ret = from->crashed ? -EINVAL : fill(to, from, flags, refusals, times);
	/* Before the source runs on: a thread that exits there must stay here. */
	if (!ret)
		ret = corsa_record_publish(to);
	corsa_thaw(from);
	if (ret)
		goto put_record;
	spin_lock(&session->lock);
	session->stats.sum.copies++;
	corsa_stats_add_locked(session, CORSA_HIST_DUP,
			       times->dup_end - times->dup_begin);
	if (from == session->active)
		corsa_stats_add_locked(session, CORSA_HIST_STOP,
				       times->stopped - times->begin);
	spin_unlock(&session->lock);
	goto reset_memcg;

put_record:
	corsa_record_put(to);
reset_memcg:
	set_active_memcg(former);
	mem_cgroup_put(memcg);
	return ret ? ERR_PTR(ret) : to;
}

long corsa_copy(struct corsa_session *session, struct corsa_copy *args,
		bool image, struct corsa_refusals *refusals)
{
	struct corsa_record *from = corsa_record_find(session, args->src);
	struct durations times = {};
	struct corsa_record *to;
	bool running;

	if (IS_ERR(from))
		return PTR_ERR(from);
	running = from == session->active && !session->held;
	to = copy_record(from, args->flags, image, refusals, &times);
	if (IS_ERR(to))
		return PTR_ERR(to);
	to->cookie = args->cookie;
	args->id = to->id;
	args->ns_stop = running ? times.stopped - times.begin : 0;
	args->ns_dup = times.dup_end - times.dup_begin;
	args->ns_total = ktime_get_ns() - times.begin;
	return 0;
}

/*
 * A fresh branch of the image takes the instance's place. If that is active the
 * process has to become the branch first, as this can fail and the rest cannot.
 */
long corsa_restore(struct corsa_session *session, struct corsa_restore *args,
		   struct corsa_refusals *refusals)
{
	struct corsa_record *image = corsa_record_find(session, args->image);
	struct corsa_record *old = corsa_record_find(session, args->instance);
	struct durations times = {};
	struct corsa_record *record;
	int ret = 0;

	if (IS_ERR(image))
		return PTR_ERR(image);
	if (IS_ERR(old))
		return PTR_ERR(old);
	if (old->image || old == image)
		return -EINVAL;
	record = copy_record(image, args->flags, false, refusals, &times);
	if (IS_ERR(record))
		return PTR_ERR(record);
	if (old == session->active)
		ret = corsa_switch(session, record, session->held, CORSA_ALL,
				   CORSA_PATIENCE);
	if (ret) {
		corsa_refs_dropped(session, record->id);
		corsa_record_remove(record);
		return ret;
	}
	corsa_record_replace(old, record);
	corsa_nodes_restored(session, old->id, image);
	/* Cannot fail for long: its threads are parked or have been called. */
	ret = corsa_record_evacuate(old);
	corsa_record_put(old);
	spin_lock(&session->lock);
	session->stats.sum.restores++;
	spin_unlock(&session->lock);
	args->ns_total = ktime_get_ns() - times.begin;
	return 0;
}
