/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The place for a gate in Binder's driver, for those who build the driver.
 *
 * add-hook puts this behind binder_proc_transaction(), which it renames to
 * binder_queue_transaction(): all requests, and no replies, go through it on
 * their way to the process that they are for, from a system call of the sender
 * that holds no lock. So a gate may sleep, and neither kprobes nor a patched
 * instruction pointer are needed. corsa.ko finds binder_set_gate() by its name
 * when the gate of a process is enabled.
 */
#ifndef BINDER_GATE_HOOK_H
#define BINDER_GATE_HOOK_H

#include <linux/export.h>
#include <linux/srcu.h>

typedef int (*binder_queue_t)(struct binder_transaction *t,
			      struct binder_proc *proc,
			      struct binder_thread *thread);
/* Calls queue if the transaction may go on, and returns what the sender gets. */
typedef int (*binder_gate_t)(struct binder_transaction *t,
			     struct binder_proc *proc,
			     struct binder_thread *thread, binder_queue_t queue);

DEFINE_STATIC_SRCU(binder_gate_srcu);
static binder_gate_t binder_gate;

static int binder_proc_transaction(struct binder_transaction *t,
				   struct binder_proc *proc,
				   struct binder_thread *thread)
{
	binder_gate_t gate;
	int index, ret;

	index = srcu_read_lock(&binder_gate_srcu);
	gate = READ_ONCE(binder_gate);
	ret = gate ? gate(t, proc, thread, binder_queue_transaction) :
		     binder_queue_transaction(t, proc, thread);
	srcu_read_unlock(&binder_gate_srcu, index);
	return ret;
}

/* NULL: none any more. Nobody is in the former one when it returns. */
void binder_set_gate(binder_gate_t gate);
void binder_set_gate(binder_gate_t gate)
{
	WRITE_ONCE(binder_gate, gate);
	synchronize_srcu(&binder_gate_srcu);
}
EXPORT_SYMBOL_GPL(binder_set_gate);

#endif
