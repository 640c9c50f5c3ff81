/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_SWAP_H
#define CORSA_SWAP_H

#include <linux/ptrace.h>
#include <linux/restart_block.h>
#include <linux/types.h>

#include "attributes.h"

struct corsa_record;
struct corsa_thread;

/* What of a thread belongs to a record. */
struct corsa_state {
	struct rcu_head rcu;
	struct corsa_thread *thread; /* pinned */
	struct pt_regs regs;
	unsigned long fsbase;
	unsigned long gsbase;
	u16 fsindex;
	u16 gsindex;
	u16 ds;
	u16 es;
	u32 pkru;
	u32 status;		/* TS_COMPAT bits */
	sigset_t blocked;
	sigset_t saved_sigmask;
	bool restore_sigmask;
	unsigned long sas_sp;
	size_t sas_size;
	unsigned int sas_flags;
	struct restart_block restart;
	struct robust_list_head __user *robust_list;
	int __user *set_child_tid;
	int __user *clear_child_tid;
	struct rseq __user *rseq;
	u32 rseq_sig;
	u32 rseq_len;
	bool busy;		/* had more to do than to go back to sleep */
	struct corsa_attributes attributes;
	u32 fpu_size;
	u8 fpu[];
};

struct corsa_swap_times {
	u64 total_ns;
	u64 mm_ns;
};

struct corsa_state *corsa_state_alloc(struct corsa_thread *thread, gfp_t gfp);
/* fpu_size: of the state that will be copied into it. */
struct corsa_state *corsa_state_alloc_sized(struct corsa_thread *thread,
					    u32 fpu_size, gfp_t gfp);
/* Both have the same thread and fpu_size. */
void corsa_state_assign(struct corsa_state *to, const struct corsa_state *from);
/* Readers under RCU may still look at it. */
void corsa_state_free(struct corsa_state *state);

/*
 * Both work on current, which is on its way to user mode with its registers in
 * task_pt_regs(). corsa_swap() makes it `to`: mm, files, fs, signal actions and
 * state; `to` must have a state of it.
 */
void corsa_state_save(struct corsa_state *state);
void corsa_swap(struct corsa_thread *thread, struct corsa_record *to,
		struct corsa_swap_times *times);

/*
 * Nothing may sleep or be noticed: the kick made the system call return EINTR,
 * but there is no signal. Makes it restart. True if it was changed.
 */
bool corsa_hide_eintr(void);
/* Is it the system call in which Binder threads wait? */
bool corsa_reads_binder(const struct pt_regs *regs);
/* Did current come out of an interruptible sleep in a system call? */
bool corsa_at_boundary(void);

#endif
