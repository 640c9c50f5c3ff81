/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_ACTIVATE_H
#define CORSA_ACTIVATE_H

#include <linux/kthread.h>
#include <linux/types.h>
#include <linux/workqueue.h>

#include "summon.h"
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
/* Calls threads that were left asleep. */
void corsa_activate_sweep(struct kthread_work *work);
void corsa_activate_sweep_later(struct work_struct *work);

/* All hold session->control. */
long corsa_activate(struct corsa_session *session, struct corsa_activate *args);

/*
 * Makes `to` (NULL: nothing) active, and waits until nobody is in the way any
 * more, as manner says. On failure the former is active again. timeout:
 * jiffies. -EBUSY, -EINTR, -ESRCH.
 */
int corsa_switch(struct corsa_session *session, struct corsa_record *to,
		 bool held, enum corsa_manner manner, long timeout);

/*
 * The same for the Binder gate: waits only for threads that could take what is
 * queued for `to`, in Binder's driver, and are not `to`. -EOPNOTSUPP as well.
 */
int corsa_switch_for_gate(struct corsa_session *session,
			  struct corsa_record *to, long timeout);

/* The two halves of a switch, of which the first does not sleep. */
void corsa_redirect(struct corsa_session *session, struct corsa_record *to,
		    bool held, enum corsa_manner manner);
int corsa_await(struct corsa_session *session, long timeout);
/* Nobody is awaited any more; `last` is what was active last. */
void corsa_forget_awaited(struct corsa_session *session,
			  struct corsa_record *last);

#endif
