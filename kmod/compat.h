/* SPDX-License-Identifier: GPL-2.0 */
/* Differences between the supported kernels, 6.1 and 6.12, and nothing else. */
#ifndef CORSA_COMPAT_H
#define CORSA_COMPAT_H

#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pagewalk.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/version.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#include <linux/filelock.h>
#endif

/* Caller holds siglock. */
static inline int corsa_dequeue_signal(sigset_t *mask, kernel_siginfo_t *info)
{
	enum pid_type type;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	return dequeue_signal(mask, info, &type);
#else
	return dequeue_signal(current, mask, info, &type);
#endif
}

/* Caller holds the mmap lock for writing. */
static inline void corsa_vma_set_flags(struct vm_area_struct *vma,
				       unsigned long flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

static inline void corsa_vma_clear_flags(struct vm_area_struct *vma,
					 unsigned long flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_clear(vma, flags);
#else
	vma->vm_flags &= ~flags;
#endif
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#define CORSA_RSEQ_HAS_LEN 1
static inline u32 corsa_rseq_len(struct task_struct *task)
{
	return task->rseq_len;
}

static inline void corsa_set_rseq_len(struct task_struct *task, u32 len)
{
	task->rseq_len = len;
}
#else
static inline u32 corsa_rseq_len(struct task_struct *task)
{
	return 0;
}

static inline void corsa_set_rseq_len(struct task_struct *task, u32 len)
{
}
#endif

static inline bool corsa_has_posix_timers(struct signal_struct *signal)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	return !hlist_empty(&signal->posix_timers);
#else
	return !list_empty(&signal->posix_timers);
#endif
}

/* The huge zero page is in page tables, but nobody counts that. */
static inline bool corsa_page_is_counted(struct page *page)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	return folio_mapped(page_folio(page));
#else
	return page_mapped(page);
#endif
}

/* Is the page mapped in this mm alone? A hint: it may change at once. */
static inline bool corsa_page_is_unique(struct page *page)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	return !folio_likely_mapped_shared(page_folio(page));
#else
	return page_mapcount(page) == 1;
#endif
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define CORSA_WALK_READ_LOCKED .walk_lock = PGWALK_RDLOCK,
#else
#define CORSA_WALK_READ_LOCKED
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
#define corsa_for_each_lock(lock, list) \
	list_for_each_entry(lock, list, c.flc_list)
static inline void *corsa_lock_owner(struct file_lock *lock)
{
	return lock->c.flc_owner;
}
#else
#define corsa_for_each_lock(lock, list) list_for_each_entry(lock, list, fl_list)
static inline void *corsa_lock_owner(struct file_lock *lock)
{
	return lock->fl_owner;
}
#endif

/* Shadow stacks came with 6.6. */
static inline bool corsa_has_shadow_stack(struct task_struct *task)
{
#if defined(CONFIG_X86_USER_SHADOW_STACK)
	return task->thread.features != 0;
#else
	return false;
#endif
}

/* One page of a foreign mm, whose lock is held for reading. 1, or an error. */
static inline long corsa_get_user_page(struct mm_struct *mm,
				       unsigned long address,
				       struct page **page)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
	return get_user_pages_remote(mm, address, 1, 0, page, NULL);
#else
	return get_user_pages_remote(mm, address, 1, 0, page, NULL, NULL);
#endif
}

#endif
