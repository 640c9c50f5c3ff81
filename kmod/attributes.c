// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel keeps of a thread, or of the process, that is no register and
 * no memory, but that the service may have changed and would find changed by
 * another instance: names, priorities, processors, limits.
 *
 * They are saved with every swap, since nothing tells when a thread has changed
 * them: some forty bytes. Loading only compares, unless they differ. So they are
 * on the hot path, and cost it next to nothing.
 */
#include <linux/sched/prio.h>
#include <linux/sched/rt.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/string.h>

#include "attributes.h"
#include "symbols.h"

void corsa_attributes_save(struct corsa_attributes *attributes)
{
	struct task_struct *task = current;

	memcpy(attributes->comm, task->comm, sizeof(attributes->comm));
	attributes->timer_slack_ns = task->timer_slack_ns;
	attributes->nice = task_nice(task);
	cpumask_copy(&attributes->cpus, task->cpus_ptr);
}

/*
 * Mostly there is nothing to do. Processors that the thread may not have any
 * more are left out by the kernel; if none is left, it stays where it is.
 */
void corsa_attributes_load(const struct corsa_attributes *attributes)
{
	struct task_struct *task = current;

	if (memcmp(task->comm, attributes->comm, sizeof(task->comm))) {
		task_lock(task);
		memcpy(task->comm, attributes->comm, sizeof(task->comm));
		task_unlock(task);
	}
	/* Those that have no priority among others have no slack either. */
	if (rt_task(task))
		return;
	task->timer_slack_ns = attributes->timer_slack_ns;
	if (task_nice(task) != attributes->nice)
		set_user_nice(task, attributes->nice);
	if (!cpumask_equal(task->cpus_ptr, &attributes->cpus))
		corsa_call(sched_setaffinity)(0, &attributes->cpus);
}

void corsa_limits_save(struct task_struct *leader, struct rlimit *limits)
{
	task_lock(leader);
	memcpy(limits, leader->signal->rlim, sizeof(leader->signal->rlim));
	task_unlock(leader);
}

/* The limit of CPU time has a timer behind it, and is of the process. */
void corsa_limits_load(struct task_struct *leader, const struct rlimit *limits)
{
	struct rlimit *now = leader->signal->rlim;
	int i;

	task_lock(leader);
	for (i = 0; i < RLIM_NLIMITS; i++)
		if (i != RLIMIT_CPU)
			now[i] = limits[i];
	task_unlock(leader);
}
