// SPDX-License-Identifier: GPL-2.0
/*
 * The hot path: a thread saves what belongs to the record that it leaves and
 * loads what belongs to the one that it becomes. Constant in memory size, in
 * the number of mappings and of descriptors; nothing is allocated.
 */
#include <linux/mm_types.h>
#include <linux/mmu_context.h>
#include <linux/rseq.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include <asm/mmu_context.h>

#include "compat.h"
#include "record.h"
#include "registers.h"
#include "session.h"
#include "swap.h"
#include "symbols.h"
#include "thread.h"

void corsa_state_save(struct corsa_state *state)
{
	struct task_struct *task = current;

	corsa_registers_save(state);
	state->blocked = task->blocked;
	state->saved_sigmask = task->saved_sigmask;
	state->restore_sigmask = task->restore_sigmask;
	state->sas_sp = task->sas_ss_sp;
	state->sas_size = task->sas_ss_size;
	state->sas_flags = task->sas_ss_flags;
	state->restart = task->restart_block;
	state->robust_list = task->robust_list;
	state->set_child_tid = task->set_child_tid;
	state->clear_child_tid = task->clear_child_tid;
	state->rseq = task->rseq;
	state->rseq_sig = task->rseq_sig;
	state->rseq_len = corsa_rseq_len(task);
	corsa_attributes_save(&state->attributes);
}

static void load_state(const struct corsa_state *state)
{
	struct task_struct *task = current;

	corsa_registers_load(state);
	if (memcmp(&task->blocked, &state->blocked, sizeof(sigset_t))) {
		sigset_t blocked = state->blocked;

		corsa_call(set_current_blocked)(&blocked);
	}
	task->saved_sigmask = state->saved_sigmask;
	task->restore_sigmask = state->restore_sigmask;
	task->sas_ss_sp = state->sas_sp;
	task->sas_ss_size = state->sas_size;
	task->sas_ss_flags = state->sas_flags;
	task->restart_block = state->restart;
	task->robust_list = state->robust_list;
	task->set_child_tid = state->set_child_tid;
	task->clear_child_tid = state->clear_child_tid;
	task->rseq = state->rseq;
	task->rseq_sig = state->rseq_sig;
	corsa_set_rseq_len(task, state->rseq_len);
	corsa_attributes_load(&state->attributes);
	/*
	 * The loaded rseq area has a stale cpu number, and its critical section
	 * was interrupted: as after preemption, the kernel puts both right on
	 * the way to user mode.
	 */
	if (task->rseq) {
		set_bit(RSEQ_EVENT_PREEMPT_BIT, &task->rseq_event_mask);
		set_thread_flag(TIF_NOTIFY_RESUME);
	}
}

/* As exec_mmap(), but the old mm keeps a user: the record that is left. */
static void swap_mm(struct mm_struct *to)
{
	struct task_struct *task = current;
	struct mm_struct *from = task->mm;

	mmget(to);
	if (corsa_has(sync_mm_rss))
		corsa_call(sync_mm_rss)(from);
	if (corsa_has(sched_mm_cid_before_execve))
		corsa_call(sched_mm_cid_before_execve)(task);
	task_lock(task);
	local_irq_disable();
	task->active_mm = to;
	task->mm = to;
	corsa_call(membarrier_update_current_mm)(to);
	corsa_call(switch_mm_irqs_off)(from, to, task);
	local_irq_enable();
	task_unlock(task);
	/* For membarrier(): a full barrier between task->mm and user accesses. */
	smp_mb();
	lru_gen_use_mm(to);
	if (corsa_has(sched_mm_cid_after_execve))
		corsa_call(sched_mm_cid_after_execve)(task);
	mmput(from);
}

static void swap_files(struct corsa_record *to)
{
	struct task_struct *task = current;
	struct files_struct *files = task->files;
	struct fs_struct *fs = task->fs;

	atomic_inc(&to->files->count);
	spin_lock(&to->fs->lock);
	to->fs->users++;
	spin_unlock(&to->fs->lock);

	task_lock(task);
	task->files = to->files;
	task->fs = to->fs;
	task_unlock(task);

	corsa_call(put_files_struct)(files);
	spin_lock(&fs->lock);
	fs->users--; /* never the last: the record has one */
	spin_unlock(&fs->lock);
}

/* Out and in, in one pass over the table. `from` may be NULL. */
static void exchange_actions(struct k_sigaction *actions,
			     struct corsa_record *from, struct corsa_record *to)
{
	int i;

	for (i = 0; i < _NSIG; i++) {
		if (from)
			from->actions[i] = actions[i];
		actions[i] = to->actions[i];
	}
}

/*
 * The table of signal actions and the limits belong to the process, so their
 * content is exchanged, by the first thread that arrives. One that is late must
 * not undo that: only what is of the instance that is active now goes in.
 */
static void swap_actions(struct corsa_session *session, struct corsa_record *to)
{
	/* A thread's own sighand stays as long as the thread. */
	struct sighand_struct *sighand =
		rcu_dereference_protected(current->sighand, true);
	struct k_sigaction *actions = sighand->action;

	if (READ_ONCE(session->actions_of) == to)
		return;
	spin_lock(&session->lock);
	if (session->active == to && session->actions_of != to) {
		if (session->actions_of)
			corsa_limits_save(session->leader,
					  session->actions_of->limits);
		corsa_limits_load(session->leader, to->limits);
		spin_lock_irq(&sighand->siglock);
		exchange_actions(actions, session->actions_of, to);
		WRITE_ONCE(session->actions_of, to);
		spin_unlock_irq(&sighand->siglock);
	}
	spin_unlock(&session->lock);
}

void corsa_swap(struct corsa_thread *thread, struct corsa_record *to,
		struct corsa_swap_times *times)
{
	u64 begin = ktime_get_ns(), mm_begin;

	if (!thread->saved)
		corsa_thread_save(thread);
	swap_files(to);
	swap_actions(thread->session, to);
	load_state(corsa_thread_state(thread, to));
	/* Last: nothing above needs the new memory, and the TLB is warm. */
	mm_begin = ktime_get_ns();
	if (current->mm != to->mm)
		swap_mm(to->mm);
	times->mm_ns = ktime_get_ns() - mm_begin;
	times->total_ns = mm_begin - begin + times->mm_ns;
}
