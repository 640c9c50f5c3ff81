/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Included before everything else in binderfs.c when it is built as a module.
 *
 * Debian exports what binder.c and binder_alloc.c need. binderfs.c needs two symbols more, which no kernel exports.
 * Both can be reached without looking symbols up: init_task is exported and holds the initial ipc namespace for good,
 * and every ipc namespace points to its operations, whose put() is put_ipc_ns(). An address taken in a table is also
 * a legal target where the kernel enforces indirect branch tracking; one that was looked up by name may not be.
 */
#ifndef CORSA_BINDERFS_COMPAT_H
#define CORSA_BINDERFS_COMPAT_H

#include <linux/ipc_namespace.h>
#include <linux/nsproxy.h>
#include <linux/proc_ns.h>
#include <linux/sched.h>
#include <linux/sched/task.h>

static inline void corsa_put_ipc_ns(struct ipc_namespace *ns)
{
	if (ns)
		ns->ns.ops->put(&ns->ns);
}

#define put_ipc_ns corsa_put_ipc_ns
#define init_ipc_ns (*init_task.nsproxy->ipc_ns)

#endif
