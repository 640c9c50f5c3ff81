/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_ACTIVATE_H
#define CORSA_ACTIVATE_H

#include <linux/kthread.h>
#include <linux/types.h>

#include "uapi/corsa.h"

struct corsa_record;
struct corsa_session;

int corsa_activate_init(void);
void corsa_activate_exit(void);
/*
 * A thread of the process has changed session->active by itself. It has turned
 * preemption off and raised session->fence before; both are undone.
 */
void corsa_activate_redirected(struct corsa_session *session);
/* Calls threads that LAZY has let sleep. */
void corsa_activate_sweep(struct kthread_work *work);
void corsa_activate_sweep_later(struct kthread_work *work);

/* All hold session->control. */
long corsa_activate(struct corsa_session *session, struct corsa_activate *args);

/*
 * Makes `to` (NULL: nothing) active and waits until no thread is in the middle
 * of anything in another record. On failure the former is active again.
 * timeout: jiffies. -EBUSY, -EINTR, -ESRCH.
 */
int corsa_switch(struct corsa_session *session, struct corsa_record *to,
		 bool held, long timeout);

/*
 * The same for the Binder gate: waits only for threads that could take what is
 * queued for `to`, in Binder's driver, and are not `to`. -EOPNOTSUPP as well.
 */
int corsa_switch_for_gate(struct corsa_session *session,
			  struct corsa_record *to, long timeout);

/*
 * Stops all threads that are in record, or could get there, with their state
 * saved. -EBUSY, -EINTR, -ESRCH: nothing is stopped.
 */
int corsa_freeze(struct corsa_record *record);
void corsa_thaw(struct corsa_record *record);

#endif
