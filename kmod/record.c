// SPDX-License-Identifier: GPL-2.0
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "binder_gate.h"
#include "record.h"
#include "session.h"
#include "swap.h"
#include "symbols.h"
#include "thread.h"

struct corsa_record *corsa_record_get(struct corsa_record *record)
{
	kref_get(&record->ref);
	return record;
}

static void free_fs(struct fs_struct *fs)
{
	int users;

	spin_lock(&fs->lock);
	users = --fs->users;
	spin_unlock(&fs->lock);
	if (!users)
		corsa_call(free_fs_struct)(fs);
}

static void free_work(struct work_struct *work)
{
	struct corsa_record *record;
	struct corsa_state *state;
	unsigned long index;

	record = container_of(work, struct corsa_record, free);
	xa_for_each(&record->states, index, state)
		corsa_state_free(state);
	xa_destroy(&record->states);
	if (record->mm)
		mmput(record->mm);
	if (record->files)
		corsa_call(put_files_struct)(record->files);
	if (record->fs)
		free_fs(record->fs);
	if (record->cred)
		put_cred(record->cred);
	corsa_session_put(record->session);
	kfree(record);
}

static void release(struct kref *ref)
{
	struct corsa_record *record = container_of(ref, struct corsa_record, ref);

	queue_work(corsa_workqueue, &record->free);
}

void corsa_record_put(struct corsa_record *record)
{
	kref_put(&record->ref, release);
}

struct corsa_record *corsa_record_create(struct corsa_session *session)
{
	struct corsa_record *record;

	record = kzalloc(sizeof(*record), GFP_KERNEL_ACCOUNT);
	if (!record)
		return NULL;
	kref_init(&record->ref);
	INIT_WORK(&record->free, free_work);
	xa_init(&record->states);
	record->session = corsa_session_get(session);
	record->id = CORSA_NONE;
	record->parent = CORSA_NONE;
	record->born_ns = ktime_get_ns();
	return record;
}

struct corsa_record *corsa_record_find(struct corsa_session *session, u32 id)
{
	struct corsa_record *record = NULL;

	if (id != CORSA_NONE)
		record = xa_load(&session->records, id);
	return record ? record : ERR_PTR(-ENOENT);
}

static void count_locked(struct corsa_record *record, int by)
{
	struct corsa_state *state;
	unsigned long index;

	lockdep_assert_held(&record->session->lock);
	xa_for_each(&record->states, index, state) {
		state->thread->copies += by;
		/* Killed while its state was being copied. */
		if (state->thread->gone)
			record->broken = true;
	}
}

int corsa_record_publish(struct corsa_record *record)
{
	struct corsa_session *session = record->session;
	int ret;

	lockdep_assert_held(&session->control);
	if (session->next_id == CORSA_NONE)
		return -ENOSPC;
	record->id = session->next_id;
	ret = xa_insert(&session->records, record->id, record,
			GFP_KERNEL_ACCOUNT);
	if (ret)
		return ret;
	ret = corsa_refs_copied(session, record->parent, record->id);
	if (ret) {
		xa_erase(&session->records, record->id);
		return ret;
	}
	session->next_id++;
	session->record_count++;
	spin_lock(&session->lock);
	count_locked(record, 1);
	spin_unlock(&session->lock);
	return 0;
}

void corsa_record_doom_locked(struct corsa_record *record)
{
	if (record->doomed)
		return;
	record->doomed = true;
	count_locked(record, -1);
}

void corsa_record_undoom_locked(struct corsa_record *record)
{
	if (!record->doomed)
		return;
	record->doomed = false;
	count_locked(record, 1);
}

/* Pointers to it that only make sense while it is in the table. */
static void unlink_locked(struct corsa_record *record)
{
	struct corsa_session *session = record->session;

	if (session->last == record)
		session->last = NULL;
	if (session->actions_of == record)
		session->actions_of = NULL;
}

void corsa_record_replace(struct corsa_record *old, struct corsa_record *record)
{
	struct corsa_session *session = old->session;

	corsa_refs_replaced(session, old->id, record->id);
	spin_lock(&session->lock);
	corsa_record_doom_locked(old);
	if (session->last == old)
		session->last = record;
	if (session->standby == old)
		session->standby = record;
	xa_erase(&session->records, record->id);
	record->id = old->id;
	record->cookie = old->cookie;
	/* Replacing an entry allocates nothing. */
	xa_store(&session->records, record->id, record, GFP_ATOMIC);
	session->record_count--;
	unlink_locked(old);
	spin_unlock(&session->lock);
}

void corsa_record_remove(struct corsa_record *record)
{
	struct corsa_session *session = record->session;

	spin_lock(&session->lock);
	corsa_record_doom_locked(record);
	xa_erase(&session->records, record->id);
	session->record_count--;
	unlink_locked(record);
	spin_unlock(&session->lock);
	corsa_record_put(record);
}

static bool evacuated(struct corsa_record *record)
{
	struct corsa_session *session = record->session;
	bool ret;

	spin_lock(&session->lock);
	ret = !record->inside || session->over;
	spin_unlock(&session->lock);
	return ret;
}

/* Its threads become another record, or end if there is none. */
int corsa_record_evacuate(struct corsa_record *record)
{
	struct corsa_session *session = record->session;

	corsa_threads_kick(session);
	wake_up_all(&session->parked);
	return wait_event_timeout(session->waiting, evacuated(record),
				  CORSA_PATIENCE) ? 0 : -EBUSY;
}

long corsa_record_discard(struct corsa_session *session, u32 id)
{
	struct corsa_record *record = corsa_record_find(session, id);
	int ret = 0;

	if (IS_ERR(record))
		return PTR_ERR(record);
	spin_lock(&session->lock);
	if (record == session->active || record == session->standby)
		ret = -EBUSY;
	else
		corsa_record_doom_locked(record);
	spin_unlock(&session->lock);
	if (!ret)
		ret = corsa_record_evacuate(record);
	if (ret == -EBUSY) {
		spin_lock(&session->lock);
		corsa_record_undoom_locked(record);
		spin_unlock(&session->lock);
		return ret;
	}
	corsa_record_remove(record);
	corsa_nodes_restored(session, id, NULL);
	corsa_refs_dropped(session, id);
	spin_lock(&session->lock);
	session->stats.sum.discards++;
	spin_unlock(&session->lock);
	return 0;
}

static u32 count_states(struct corsa_record *record)
{
	struct corsa_state *state;
	unsigned long index;
	u32 count = 0;

	xa_for_each(&record->states, index, state)
		count++;
	return count;
}

static void describe(struct corsa_record *record, struct corsa_record_info *info)
{
	struct corsa_session *session = record->session;

	spin_lock(&session->lock);
	*info = (struct corsa_record_info){
		.id = record->id,
		.parent = record->parent,
		.flags = (record->image ? CORSA_RECORD_IMAGE : 0) |
			 (record == session->active ? CORSA_RECORD_ACTIVE : 0) |
			 (record->crashed ? CORSA_RECORD_CRASHED : 0) |
			 (record->broken ? CORSA_RECORD_BROKEN : 0) |
			 (record == session->standby ? CORSA_RECORD_STANDBY : 0),
		.threads = count_states(record),
		.cookie = record->cookie,
		.born_ns = record->born_ns,
		.signo = record->signo,
		.code = record->code,
	};
	spin_unlock(&session->lock);
}

long corsa_record_list(struct corsa_session *session, struct corsa_list *args)
{
	struct corsa_record_info __user *out = u64_to_user_ptr(args->records);
	struct corsa_record_info info;
	struct corsa_record *record;
	unsigned long id;

	args->count = 0;
	xa_for_each(&session->records, id, record) {
		if (args->count < args->cap) {
			describe(record, &info);
			if (copy_to_user(&out[args->count], &info, sizeof(info)))
				return -EFAULT;
		}
		args->count++;
	}
	spin_lock(&session->lock);
	args->active = session->active ? session->active->id : CORSA_NONE;
	args->last = session->last ? session->last->id : CORSA_NONE;
	args->held = session->active && session->held;
	spin_unlock(&session->lock);
	return 0;
}
