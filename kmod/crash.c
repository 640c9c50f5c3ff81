// SPDX-License-Identifier: GPL-2.0
/*
 * Crashes: an instance ends, the process does not.
 *
 * A fatal signal that a thread raises itself is seen when it is generated. It
 * is pending then; our task_work runs before get_signal() takes it, and takes
 * it first. SIGSEGV and its like do not begin to end the process when they are
 * generated (they dump core, so that is done when they are delivered), which is
 * what makes this possible; SIGKILL does, and nothing stops it.
 */
#include <linux/preempt.h>
#include <linux/sched/signal.h>
#include <linux/signal.h>

#include "activate.h"
#include "binder_gate.h"
#include "compat.h"
#include "crash.h"
#include "record.h"
#include "session.h"
#include "thread.h"

struct crash_cause {
	int signo;
	int code;
	u64 address;
};

static bool is_crash_signal(int signo)
{
	return signo == SIGSEGV || signo == SIGBUS || signo == SIGILL ||
	       signo == SIGFPE || signo == SIGABRT;
}

/* Also called for other processes: cheap, and takes no lock (siglock is held). */
void corsa_crash_generated(int signo, const struct kernel_siginfo *info)
{
	struct corsa_thread *thread;

	if (!is_crash_signal(signo) || !in_task() ||
	    info == SEND_SIG_NOINFO || info == SEND_SIG_PRIV)
		return;
	rcu_read_lock();
	thread = corsa_thread_of(current);
	if (thread && READ_ONCE(thread->session->policy) != CORSA_CRASH_PASS) {
		thread->fatal_signal = signo;
		thread->fatal_code = info->si_code;
		thread->fatal_address =
			info->si_code > 0 ? (unsigned long)info->si_addr : 0;
		corsa_thread_kick(thread);
	}
	rcu_read_unlock();
}

/* Within the limit? Holds session->lock. */
static bool may_use_standby_locked(struct corsa_session *session)
{
	u64 now = ktime_get_ns();
	u64 window = (u64)session->crash_window_ms * NSEC_PER_MSEC;

	if (!session->standby || !corsa_record_runnable(session->standby))
		return false;
	if (now - session->crash_window_start > window) {
		session->crash_window_start = now;
		session->crash_count = 0;
	}
	session->crash_count++;
	return !session->crash_limit ||
	       session->crash_count <= session->crash_limit;
}

/* Current cannot go on in the record that it is in. */
static bool crash(struct corsa_thread *thread,
		  const struct crash_cause *cause)
{
	struct corsa_session *session = thread->session;
	struct corsa_record *record;
	struct corsa_event event = {
		.type = CORSA_EVENT_CRASHED,
		.next = CORSA_NONE,
		.tid = task_pid_nr(current),
		.signo = cause->signo,
		.code = cause->code,
		.addr = cause->address,
	};

	preempt_disable();
	spin_lock(&session->lock);
	record = thread->cur;
	if (thread->gone || session->over || session->parting ||
	    session->policy == CORSA_CRASH_PASS || record->crashed) {
		/* A second thread that crashes with the first is parked with it. */
		bool handled = !thread->gone && record->crashed;

		spin_unlock(&session->lock);
		preempt_enable();
		return handled;
	}
	record->crashed = true;
	record->signo = cause->signo;
	record->code = cause->code;
	session->stats.sum.crashes++;
	if (session->active == record) {
		session->active = NULL;
		session->held = false;
		if (session->policy == CORSA_CRASH_STANDBY &&
		    may_use_standby_locked(session)) {
			session->active = session->standby;
			session->last = session->standby;
			event.next = session->standby->id;
			session->standby = NULL;
			session->policy = CORSA_CRASH_PARK;
		}
	}
	event.id = record->id;
	atomic_inc(&session->fence);
	spin_unlock(&session->lock);
	corsa_activate_redirected(session);
	corsa_gate_crashed(record);
	corsa_events_add(&session->events, event);
	return true;
}

/* Is it still there, and nobody handles it? Then it is no longer. */
static bool take_signal(int signo)
{
	struct sighand_struct *sighand =
		rcu_dereference_protected(current->sighand, true);
	kernel_siginfo_t info;
	sigset_t others;
	bool taken = false;

	siginitsetinv(&others, sigmask(signo));
	spin_lock_irq(&sighand->siglock);
	if (sighand->action[signo - 1].sa.sa_handler == SIG_DFL &&
	    !sigismember(&current->blocked, signo) &&
	    !(current->signal->flags & SIGNAL_GROUP_EXIT)) {
		taken = corsa_dequeue_signal(&others, &info) == signo;
		recalc_sigpending();
	}
	spin_unlock_irq(&sighand->siglock);
	return taken;
}

void corsa_crash_signal(struct corsa_thread *thread)
{
	struct crash_cause cause = {
		.signo = thread->fatal_signal,
		.code = thread->fatal_code,
		.address = thread->fatal_address,
	};

	thread->fatal_signal = 0;
	if (READ_ONCE(thread->session->policy) == CORSA_CRASH_PASS ||
	    READ_ONCE(thread->session->parting) || !take_signal(cause.signo))
		return;
	if (!crash(thread, &cause))
		/* The session ended under us: let the signal do its work. */
		send_sig(cause.signo, current, 1);
}

bool corsa_crash_exit(struct corsa_thread *thread, int code)
{
	struct crash_cause cause = { .code = code };

	return crash(thread, &cause);
}

long corsa_crash_set(struct corsa_session *session,
		     const struct corsa_crash *args)
{
	struct corsa_record *standby = NULL;
	long ret = 0;
	bool wants_standby = args->policy == CORSA_CRASH_STANDBY;

	if (args->policy > CORSA_CRASH_MAX || args->reserved ||
	    wants_standby == (args->standby == CORSA_NONE))
		return -EINVAL;
	if (wants_standby) {
		standby = corsa_record_find(session, args->standby);
		if (IS_ERR(standby))
			return PTR_ERR(standby);
	}
	spin_lock(&session->lock);
	if (standby && (!corsa_record_runnable(standby) ||
			standby == session->active)) {
		ret = -EINVAL;
	} else {
		session->policy = args->policy;
		session->standby = standby;
		session->crash_limit = args->limit;
		session->crash_window_ms = args->window_ms;
	}
	spin_unlock(&session->lock);
	return ret;
}
