/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_RECORD_H
#define CORSA_RECORD_H

#include <linux/cred.h>
#include <linux/fdtable.h>
#include <linux/fs_struct.h>
#include <linux/kref.h>
#include <linux/sched/signal.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "uapi/corsa.h"

struct corsa_session;
struct corsa_state;
struct corsa_thread;

/*
 * One copy of the process. It always owns one reference to mm, files and fs,
 * so that a thread that lets go of them never drops the last one.
 *
 * References: one of the session's table, one for each thread that is inside.
 */
struct corsa_record {
	struct kref ref;
	struct work_struct free;
	struct corsa_session *session;	/* pinned */
	u32 id;
	u32 parent;
	u64 cookie;
	u64 born_ns;
	bool image;

	struct mm_struct *mm;
	struct files_struct *files;
	struct fs_struct *fs;
	const struct cred *cred;	/* of the process when it was copied */
	struct k_sigaction actions[_NSIG]; /* unless session->actions_of is this */
	struct rlimit limits[RLIM_NLIMITS]; /* likewise */
	struct xarray states;		/* thread index -> struct corsa_state */

	/* session->lock: */
	u32 inside;	/* threads whose task uses mm, files and fs */
	u32 recent;	/* index of the thread that had run last in it */
	u32 awake;	/* of them: not parked, so the state is not in states */
	bool frozen;	/* being copied or edited: nobody may run in it */
	bool crashed;
	bool broken;	/* a thread of it has died */
	bool doomed;	/* being discarded */
	s32 signo;
	s32 code;
};

struct corsa_record *corsa_record_create(struct corsa_session *session);
struct corsa_record *corsa_record_get(struct corsa_record *record);
/* Any context: memory is given back by a worker. */
void corsa_record_put(struct corsa_record *record);

/* Holds session->control. ERR_PTR(-ENOENT). The table keeps the reference. */
struct corsa_record *corsa_record_find(struct corsa_session *session, u32 id);

/* May it become the active instance? */
static inline bool corsa_record_runnable(const struct corsa_record *record)
{
	return !record->image && !record->crashed && !record->broken;
}

/* Gives it an id and puts it in the table, which takes over the reference. */
int corsa_record_publish(struct corsa_record *record);
/* Takes old's id, cookie and place in the table. old keeps its reference. */
void corsa_record_replace(struct corsa_record *old, struct corsa_record *record);
/* Its threads no longer count as living in it. Holds session->lock. */
void corsa_record_doom_locked(struct corsa_record *record);
void corsa_record_undoom_locked(struct corsa_record *record);
/* Takes it out of the table and drops the table's reference. Holds control. */
void corsa_record_remove(struct corsa_record *record);

/* Waits until nobody is inside; it must be doomed. -EBUSY. Holds control. */
int corsa_record_evacuate(struct corsa_record *record);

long corsa_record_list(struct corsa_session *session, struct corsa_list *args);
long corsa_record_discard(struct corsa_session *session, u32 id);

#endif
