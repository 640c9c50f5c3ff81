// SPDX-License-Identifier: GPL-2.0
/* Standing still: at a boundary, to be parked, and anywhere, to be copied. */
#include <linux/hrtimer.h>
#include <linux/rculist.h>
#include <linux/sched/signal.h>

#include "activate.h"
#include "record.h"
#include "session.h"
#include "still.h"
#include "summon.h"
#include "thread.h"

/* Every thread that could run is asleep and a signal could wake it. */
static bool all_asleep(struct corsa_session *session)
{
	struct corsa_thread *thread;
	bool all = true;

	rcu_read_lock();
	list_for_each_entry_rcu(thread, &session->threads, link) {
		all = READ_ONCE(thread->parked) || corsa_asleep(thread);
		if (!all)
			break;
	}
	rcu_read_unlock();
	return all;
}

/*
 * No instance is active: did each parked thread come out of a wait, and is each
 * one that was left asleep still in it?
 */
static bool all_at_boundary(struct corsa_session *session,
			    struct corsa_record *record)
{
	struct corsa_thread *thread;
	bool all = true;

	spin_lock(&session->lock);
	list_for_each_entry(thread, &session->threads, link) {
		if (thread->cur != record ||
		    !corsa_thread_state(thread, record))
			continue;
		all = thread->parked ? thread->at_boundary : corsa_asleep(thread);
		if (!all)
			break;
	}
	spin_unlock(&session->lock);
	return all;
}

/*
 * Stops the running instance at a boundary. A busy one is only looked at; it is
 * stopped when all threads seem to sleep, and let go again if one of them was
 * faster.
 */
int corsa_park_at_boundary(struct corsa_session *session, u64 timeout_ns,
			   enum corsa_manner manner)
{
	struct corsa_record *record = session->active;
	u64 deadline = ktime_get_ns() + min_t(u64, timeout_ns, NSEC_PER_SEC * 3600);
	u64 pause = 10 * NSEC_PER_USEC;
	ktime_t expires;
	int ret;

	if (!record || session->held)
		return 0;
	for (;;) {
		if (all_asleep(session)) {
			ret = corsa_switch(session, NULL, false, manner,
					   CORSA_PATIENCE);
			if (ret)
				return ret;
			if (all_at_boundary(session, record))
				return 0;
			corsa_redirect(session, record, false, CORSA_LAZY);
			corsa_forget_awaited(session, record);
		}
		if (ktime_get_ns() >= deadline)
			return -EBUSY;
		if (fatal_signal_pending(current))
			return -EINTR;
		if (READ_ONCE(session->over))
			return -ESRCH;
		expires = ns_to_ktime(pause);
		set_current_state(TASK_KILLABLE);
		schedule_hrtimeout(&expires, HRTIMER_MODE_REL);
		pause = min_t(u64, pause * 2, NSEC_PER_MSEC);
	}
}

int corsa_freeze(struct corsa_record *record)
{
	struct corsa_session *session = record->session;
	struct corsa_thread *thread;
	int ret;

	spin_lock(&session->lock);
	record->frozen = true;
	if (record == session->active)
		corsa_note_recent_locked(record);
	session->awaited = 0;
	list_for_each_entry(thread, &session->threads, link) {
		/*
		 * Late ones may still be on their way into the active one, or
		 * into one that was active a moment ago.
		 */
		thread->awaited = !thread->parked &&
				  (record == session->active ||
				   thread->cur == record ||
				   thread->to == record);
		session->awaited += thread->awaited;
		if (thread->awaited)
			corsa_thread_kick(thread);
	}
	spin_unlock(&session->lock);
	ret = corsa_await(session, CORSA_PATIENCE);
	if (!ret && READ_ONCE(record->awake))
		ret = -EBUSY;
	if (ret) {
		corsa_forget_awaited(session, session->last);
		corsa_thaw(record);
	}
	return ret;
}

void corsa_thaw(struct corsa_record *record)
{
	spin_lock(&record->session->lock);
	record->frozen = false;
	spin_unlock(&record->session->lock);
	wake_up_all(&record->session->parked);
}
