/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_DUPLICATE_H
#define CORSA_DUPLICATE_H

#include <linux/sched.h>
#include <linux/types.h>

struct mm_struct;

int corsa_duplicate_init(void);
void corsa_duplicate_exit(void);

/*
 * A copy on write of mm, which nobody may be executing in. owner is charged
 * for it and must stay pinned as long as the copy is nobody's. The caller gets
 * one reference. wipe: leave MADV_WIPEONFORK areas empty.
 */
struct mm_struct *corsa_duplicate_mm(struct mm_struct *mm,
				     struct task_struct *owner, bool wipe);

/* For the probe of a birth: parent may be the worker that duplicates. */
void corsa_duplicate_born(struct task_struct *parent, struct task_struct *child);
/*
 * Is it a child that was made for its copy of an mm and has not ended yet?
 * Under rcu_read_lock().
 */
bool corsa_duplicate_made(struct task_struct *task);

/* Is task one of the children that carried a copy, about to end? RCU. */
bool corsa_duplicate_carried(struct task_struct *task);

#endif
