/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_CRASH_H
#define CORSA_CRASH_H

#include <linux/types.h>

#include "uapi/corsa.h"

struct corsa_session;
struct corsa_thread;
struct kernel_siginfo;

/* For the probe of signal generation: current has got a signal. Holds siglock. */
void corsa_crash_generated(int signo, const struct kernel_siginfo *info);
/* In current's task_work: was it fatal? Then it is taken, and the policy acts. */
void corsa_crash_signal(struct corsa_thread *thread);
/* Current calls exit_group(code). False: let it. */
bool corsa_crash_exit(struct corsa_thread *thread, int code);

/* Holds control. */
long corsa_crash_set(struct corsa_session *session,
		     const struct corsa_crash *args);

#endif
