// SPDX-License-Identifier: GPL-2.0
/*
 * Duplicating an mm.
 *
 * The code that does it, dup_mm(), is inlined into copy_process(), so it takes
 * a clone() to run it: a kernel thread borrows the mm and clones itself without
 * CLONE_VM. The child has the copy from its birth, before it first runs; it is
 * there only to end. The process sees nothing of this: neither its children,
 * nor its pids, nor its signals are touched.
 */
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmu_context.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "compat.h"
#include "duplicate.h"
#include "symbols.h"

static struct kthread_worker *worker;

struct request {
	struct kthread_work work;
	struct mm_struct *mm;
	struct mm_struct *copy;
	struct task_struct *owner;
	struct completion done;
	int error;
};

/* The request that the worker is serving; only the worker looks at it. */
static struct request *serving;

/*
 * Must not return: there is no user context to return to. SIGKILL would not
 * end it either, as children of kthreadd inherit ignoring all signals. For the
 * same reason its parent never has to reap it.
 */
static int child(void *unused)
{
	corsa_call(do_exit)(0);
	BUG();
}

void corsa_duplicate_born(struct task_struct *parent, struct task_struct *task)
{
	struct request *request = serving;

	if (parent != worker->task || !request)
		return;
	mmget(task->mm);
	request->copy = task->mm;
#ifdef CONFIG_MEMCG
	/* Else the child's exit would search all processes for a new owner. */
	rcu_assign_pointer(task->mm->owner, request->owner);
#endif
}

bool corsa_duplicate_made(struct task_struct *task)
{
	return rcu_access_pointer(task->real_parent) == worker->task;
}

bool corsa_duplicate_carried(struct task_struct *task)
{
	return rcu_access_pointer(task->real_parent) == worker->task;
}

static void serve(struct kthread_work *work)
{
	struct request *request = container_of(work, struct request, work);
	struct kernel_clone_args args = {
		.flags = CLONE_FS | CLONE_FILES | CLONE_UNTRACED,
		.exit_signal = SIGCHLD,
		.fn = child,
	};
	struct mem_cgroup *memcg, *former;
	pid_t pid;

	memcg = get_mem_cgroup_from_mm(request->mm);
	former = set_active_memcg(memcg);
	serving = request;
	kthread_use_mm(request->mm);
	pid = corsa_call(kernel_clone)(&args);
	kthread_unuse_mm(request->mm);
	serving = NULL;
	set_active_memcg(former);
	mem_cgroup_put(memcg);
	request->error = pid < 0 ? pid : 0;
	complete(&request->done);
}

/*
 * A copy is the same program continued, so it has what fork() would leave out.
 * The flags that say so are taken away while the mm is duplicated.
 */
struct kept_area {
	unsigned long start;
	unsigned long flags;
};

static unsigned long kept_flags(struct vm_area_struct *vma, bool wipe)
{
	/* A device's memory cannot be copied; refuse.c has objected. */
	if (vma->vm_flags & (VM_IO | VM_PFNMAP | VM_MIXEDMAP))
		return 0;
	return vma->vm_flags & (VM_DONTCOPY | (wipe ? 0 : VM_WIPEONFORK));
}

static struct kept_area *clear_flags(struct mm_struct *mm, bool wipe,
				     size_t *count)
{
	struct kept_area *areas = NULL;
	struct vm_area_struct *vma;
	size_t found = 0, done = 0;

	VMA_ITERATOR(iterator, mm, 0);

	mmap_write_lock(mm);
	for_each_vma(iterator, vma)
		found += kept_flags(vma, wipe) != 0;
	if (found) {
		areas = kvmalloc_array(found, sizeof(*areas),
				       GFP_KERNEL_ACCOUNT);
		if (!areas) {
			mmap_write_unlock(mm);
			return ERR_PTR(-ENOMEM);
		}
		vma_iter_init(&iterator, mm, 0);
		for_each_vma(iterator, vma) {
			unsigned long flags = kept_flags(vma, wipe);

			if (!flags)
				continue;
			areas[done].start = vma->vm_start;
			areas[done++].flags = flags;
			corsa_vma_clear_flags(vma, flags);
		}
	}
	mmap_write_unlock(mm);
	*count = found;
	return areas;
}

static void restore_flags(struct mm_struct *mm, const struct kept_area *areas,
			  size_t count)
{
	struct vm_area_struct *vma;
	size_t i;

	if (!count)
		return;
	mmap_write_lock(mm);
	for (i = 0; i < count; i++) {
		vma = find_vma(mm, areas[i].start);
		if (vma && vma->vm_start == areas[i].start)
			corsa_vma_set_flags(vma, areas[i].flags);
	}
	mmap_write_unlock(mm);
}

struct mm_struct *corsa_duplicate_mm(struct mm_struct *mm,
				     struct task_struct *owner, bool wipe)
{
	struct request request = { .mm = mm, .owner = owner };
	struct kept_area *areas;
	size_t count;

	areas = clear_flags(mm, wipe, &count);
	if (IS_ERR(areas))
		return ERR_CAST(areas);
	kthread_init_work(&request.work, serve);
	init_completion(&request.done);
	kthread_queue_work(worker, &request.work);
	wait_for_completion(&request.done);
	restore_flags(mm, areas, count);
	if (request.copy)
		restore_flags(request.copy, areas, count);
	kvfree(areas);
	if (request.error)
		return ERR_PTR(request.error);
	/* The probe that hands it over is there as long as the module is. */
	return WARN_ON_ONCE(!request.copy) ? ERR_PTR(-EIO) : request.copy;
}

int corsa_duplicate_init(void)
{
	worker = kthread_create_worker(0, "corsa_copy");
	return PTR_ERR_OR_ZERO(worker);
}

void corsa_duplicate_exit(void)
{
	kthread_destroy_worker(worker);
}
