/* SPDX-License-Identifier: GPL-2.0 */
/* What a thread does in its task_work until it may return to user mode. */
#ifndef CORSA_SETTLE_H
#define CORSA_SETTLE_H

#include <linux/task_work.h>

#include "verdict.h"

struct corsa_thread;

/* RUN: return to user mode (or die). LEAVE: call corsa_settle_leave(). */
enum corsa_verdict corsa_settle(struct corsa_thread *thread);
/* Ends current; rest is what of its task_work has not run yet. */
void __noreturn corsa_settle_leave(struct callback_head *rest);
void corsa_settle_note_eintr(struct corsa_thread *thread);

#endif
