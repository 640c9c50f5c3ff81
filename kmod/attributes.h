/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_ATTRIBUTES_H
#define CORSA_ATTRIBUTES_H

#include <linux/cpumask.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/types.h>

/* What a thread may have set for itself that user mode can ask for. */
struct corsa_attributes {
	char comm[TASK_COMM_LEN];
	u64 timer_slack_ns;
	int nice;
	struct cpumask cpus;
};

/* Both work on current. */
void corsa_attributes_save(struct corsa_attributes *attributes);
/* May sleep and, only if the thread has other CPUs, allocate. */
void corsa_attributes_load(const struct corsa_attributes *attributes);

/* Resource limits, of the process whose leader this is. Neither sleeps. */
void corsa_limits_save(struct task_struct *leader, struct rlimit *limits);
void corsa_limits_load(struct task_struct *leader, const struct rlimit *limits);

#endif
