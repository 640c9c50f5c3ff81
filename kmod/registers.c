// SPDX-License-Identifier: GPL-2.0
/* The registers of user mode that current will return to: x86-64. */
#include <linux/sched/task_stack.h>

#include <asm/fpu/api.h>
#include <asm/fpu/sched.h>
#include <asm/fsgsbase.h>
#include <asm/pkru.h>

#include "registers.h"
#include "swap.h"
#include "symbols.h"
#include "xstate.h"

static unsigned long read_fsbase(void)
{
	unsigned long base;

	if (boot_cpu_has(X86_FEATURE_FSGSBASE))
		return rdfsbase();
	rdmsrl(MSR_FS_BASE, base);
	return base;
}

static void write_fsbase(unsigned long base)
{
	if (boot_cpu_has(X86_FEATURE_FSGSBASE))
		wrfsbase(base);
	else
		wrmsrl(MSR_FS_BASE, base);
}

/* In the kernel the user's base lies in the swapgs shadow. */
static unsigned long read_gsbase(void)
{
	unsigned long flags, base;

	if (!boot_cpu_has(X86_FEATURE_FSGSBASE) ||
	    boot_cpu_has(X86_FEATURE_XENPV)) {
		rdmsrl(MSR_KERNEL_GS_BASE, base);
		return base;
	}
	local_irq_save(flags);
	native_swapgs();
	base = rdgsbase();
	native_swapgs();
	local_irq_restore(flags);
	return base;
}

static void save_segments(struct corsa_state *state)
{
	preempt_disable();
	savesegment(fs, state->fsindex);
	savesegment(gs, state->gsindex);
	savesegment(ds, state->ds);
	savesegment(es, state->es);
	state->fsbase = read_fsbase();
	state->gsbase = read_gsbase();
	preempt_enable();
}

/* Selectors first: loading one overwrites the base. */
static void load_segments(const struct corsa_state *state)
{
	struct thread_struct *arch = &current->thread;
	u16 fs, gs, ds, es;

	preempt_disable();
	savesegment(fs, fs);
	savesegment(gs, gs);
	savesegment(ds, ds);
	savesegment(es, es);
	if (fs != state->fsindex)
		loadsegment(fs, state->fsindex);
	if (gs != state->gsindex)
		load_gs_index(state->gsindex);
	if (ds != state->ds)
		loadsegment(ds, state->ds);
	if (es != state->es)
		loadsegment(es, state->es);
	if (read_fsbase() != state->fsbase)
		write_fsbase(state->fsbase);
	if (read_gsbase() != state->gsbase)
		wrmsrl(MSR_KERNEL_GS_BASE, state->gsbase);
	arch->fsindex = state->fsindex;
	arch->gsindex = state->gsindex;
	arch->fsbase = state->fsbase;
	arch->gsbase = state->gsbase;
	preempt_enable();
}

static void save_fpu(struct corsa_state *state)
{
	struct fpu *fpu = &current->thread.fpu;

	fpregs_lock();
	if (!test_thread_flag(TIF_NEED_FPU_LOAD))
		corsa_call(save_fpregs_to_fpstate)(fpu);
	corsa_xstate_copy((void *)state->fpu, &fpu->fpstate->regs,
			  state->fpu_size);
	fpregs_unlock();
}

/* The registers are loaded from memory when current returns to user mode. */
static void load_fpu(const struct corsa_state *state)
{
	struct fpu *fpu = &current->thread.fpu;

	fpregs_lock();
	corsa_xstate_copy(&fpu->fpstate->regs, (const void *)state->fpu,
			  state->fpu_size);
	fpu->last_cpu = -1;
	set_thread_flag(TIF_NEED_FPU_LOAD);
	fpregs_unlock();
}

void corsa_registers_save(struct corsa_state *state)
{
	state->regs = *task_pt_regs(current);
	state->status = current->thread_info.status;
	save_segments(state);
	save_fpu(state);
	state->pkru = read_pkru();
}

void corsa_registers_load(const struct corsa_state *state)
{
	struct task_struct *task = current;

	*task_pt_regs(task) = state->regs;
	task->thread_info.status = (task->thread_info.status & ~TS_COMPAT) |
				   (state->status & TS_COMPAT);
	load_segments(state);
	load_fpu(state);
	if (cpu_feature_enabled(X86_FEATURE_OSPKE)) {
		preempt_disable();
		task->thread.pkru = state->pkru;
		write_pkru(state->pkru);
		preempt_enable();
	}
}
