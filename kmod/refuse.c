// SPDX-License-Identifier: GPL-2.0
/* What cannot be virtualised, by name. */
#include <linux/cred.h>
#include <linux/hrtimer.h>
#include <linux/hugetlb_inline.h>
#include <linux/mm.h>
#include <linux/rculist.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/uprobes.h>
#include <linux/userfaultfd_k.h>

#include "binder_gate.h"
#include "compat.h"
#include "duplicate.h"
#include "duplicate.h"
#include "files.h"
#include "record.h"
#include "refuse.h"
#include "session.h"
#include "thread.h"

void corsa_refuse(struct corsa_refusals *refusals, struct corsa_refusal refusal)
{
	if (refusal.kind != CORSA_REFUSE_FILE_LOCK &&
	    refusal.kind != CORSA_REFUSE_FILE_OPEN)
		refusal.fd = -1;
	if (refusals->count < refusals->cap)
		refusals->list[refusals->count] = refusal;
	refusals->count++;
}

static void refuse_thread(struct corsa_refusals *refusals, u32 kind,
			  struct task_struct *task)
{
	corsa_refuse(refusals, (struct corsa_refusal){
		.kind = kind, .tid = task_pid_vnr(task) });
}

static bool holds_pi_futex(struct task_struct *task)
{
	return IS_ENABLED(CONFIG_FUTEX_PI) && !list_empty(&task->pi_state_list);
}

/* As in ipc/sem.c, which keeps it to itself. */
struct sem_undo_list {
	refcount_t refcnt;
	spinlock_t lock; /* for list_proc */
	struct list_head list_proc;
};

/* All threads of a process share a list; most never put anything on it. */
static bool has_sem_undo(struct task_struct *task)
{
	struct sem_undo_list *list = task->sysvsem.undo_list;

	return list && !list_empty(&list->list_proc);
}

static void refuse_task(struct corsa_record *record, struct task_struct *task,
			struct corsa_refusals *refusals)
{
	if (READ_ONCE(task->flags) & PF_EXITING)
		return;
	if (task->io_uring)
		refuse_thread(refusals, CORSA_REFUSE_IO_URING, task);
	if (holds_pi_futex(task))
		refuse_thread(refusals, CORSA_REFUSE_PI_FUTEX, task);
	if (task->ptrace)
		refuse_thread(refusals, CORSA_REFUSE_PTRACED, task);
	if (test_tsk_thread_flag(task, TIF_ADDR32))
		refuse_thread(refusals, CORSA_REFUSE_COMPAT, task);
	if (has_sem_undo(task))
		refuse_thread(refusals, CORSA_REFUSE_SEM_UNDO, task);
	if (task->thread.io_bitmap || task->thread.iopl_emul)
		refuse_thread(refusals, CORSA_REFUSE_IOPORT, task);
	if (corsa_has_shadow_stack(task))
		refuse_thread(refusals, CORSA_REFUSE_SHADOW_STACK, task);
	if (READ_ONCE(task->files) != record->files ||
	    READ_ONCE(task->fs) != record->fs)
		refuse_thread(refusals, CORSA_REFUSE_UNSHARED, task);
}

static void refuse_timers(struct task_struct *leader,
			  struct corsa_refusals *refusals)
{
	struct signal_struct *signal = leader->signal;

	if (corsa_has_posix_timers(signal) ||
	    hrtimer_active(&signal->real_timer) || signal->it[0].expires ||
	    signal->it[1].expires)
		refuse_thread(refusals, CORSA_REFUSE_TIMER, leader);
}

static void refuse_mapping(struct corsa_session *session,
			   struct vm_area_struct *vma, bool attaching,
			   struct corsa_refusals *refusals)
{
	struct corsa_refusal refusal = { .addr = vma->vm_start };

	/* The gate can be enabled once it is attached, and has to be. */
	if (corsa_shadow_mapping(vma) ||
	    ((attaching || session->gate) && corsa_binder_mapping(vma)))
		return;
	if (userfaultfd_armed(vma))
		refusal.kind = CORSA_REFUSE_USERFAULTFD;
	else if (is_vm_hugetlb_page(vma) && !(vma->vm_flags & VM_MAYSHARE))
		refusal.kind = CORSA_REFUSE_HUGETLB;
	else if ((vma->vm_flags & (VM_IO | VM_PFNMAP | VM_MIXEDMAP)) &&
		 (vma->vm_flags & VM_DONTCOPY))
		refusal.kind = CORSA_REFUSE_DEVICE_MAP;
	else
		return;
	corsa_refuse(refusals, refusal);
}

static void refuse_memory(struct corsa_record *record, bool attaching,
			  struct corsa_refusals *refusals)
{
	struct mm_struct *mm = record->mm;
	struct vm_area_struct *vma;

	VMA_ITERATOR(iterator, mm, 0);

	if (IS_ENABLED(CONFIG_AIO) && rcu_access_pointer(mm->ioctx_table))
		corsa_refuse(refusals, (struct corsa_refusal){
			.kind = CORSA_REFUSE_AIO });
	if (mm->notifier_subscriptions &&
	    !corsa_shadow_watches(record->session, mm))
		corsa_refuse(refusals, (struct corsa_refusal){
			.kind = CORSA_REFUSE_MMU_NOTIFIER });
	if (test_bit(MMF_HAS_UPROBES, &mm->flags))
		corsa_refuse(refusals, (struct corsa_refusal){
			.kind = CORSA_REFUSE_UPROBE });
	mmap_read_lock(mm);
	for_each_vma(iterator, vma)
		refuse_mapping(record->session, vma, attaching, refusals);
	mmap_read_unlock(mm);
}

/* Looks at all threads of the system: only when somebody is known to share. */
static bool refuse_sharers(struct mm_struct *mm, struct task_struct *leader,
			   struct corsa_refusals *refusals)
{
	struct task_struct *process, *task;
	bool found = false;

	rcu_read_lock();
	for_each_process_thread(process, task) {
		if (READ_ONCE(task->mm) != mm || task->flags & PF_KTHREAD ||
		    same_thread_group(task, leader) ||
		    corsa_duplicate_made(task))
			continue;
		refuse_thread(refusals, CORSA_REFUSE_SHARED_MM, task);
		found = true;
	}
	rcu_read_unlock();
	return found;
}

/* Restoring old credentials would be a hole, new ones with old memory as well. */
static bool same_cred(const struct cred *a, const struct cred *b)
{
	return a == b ||
	       (uid_eq(a->uid, b->uid) && uid_eq(a->euid, b->euid) &&
		uid_eq(a->suid, b->suid) && uid_eq(a->fsuid, b->fsuid) &&
		gid_eq(a->gid, b->gid) && gid_eq(a->egid, b->egid) &&
		gid_eq(a->sgid, b->sgid) && gid_eq(a->fsgid, b->fsgid) &&
		a->user_ns == b->user_ns &&
		!memcmp(&a->cap_permitted, &b->cap_permitted,
			sizeof(a->cap_permitted)) &&
		!memcmp(&a->cap_effective, &b->cap_effective,
			sizeof(a->cap_effective)));
}

static bool cred_changed(struct task_struct *leader, const struct cred *cred)
{
	bool changed;

	rcu_read_lock();
	changed = !same_cred(__task_cred(leader), cred);
	rcu_read_unlock();
	return changed;
}

void corsa_refuse_record(struct corsa_record *record, bool attaching,
			 struct corsa_refusals *refusals)
{
	struct corsa_session *session = record->session;
	struct corsa_thread *thread;

	rcu_read_lock();
	list_for_each_entry_rcu(thread, &session->threads, link)
		if (thread->cur == record)
			refuse_task(record, thread->task, refusals);
	rcu_read_unlock();
	refuse_timers(session->leader, refusals);
	refuse_memory(record, attaching, refusals);
	corsa_files_refuse(record->files, refusals);
	/* Its threads and the record itself have a reference each. */
	if (attaching || session->foreign ||
	    atomic_read(&record->mm->mm_users) > record->inside + 1)
		refuse_sharers(record->mm, session->leader, refusals);
	if (cred_changed(session->leader, record->cred))
		refuse_thread(refusals, CORSA_REFUSE_CREDS, session->leader);
}

/*
 * Has the thread left the descriptors or the cwd of its record by unshare() or
 * the like? A swap would lose them.
 */
static bool unshared_locked(struct corsa_thread *thread)
{
	struct task_struct *task = thread->task;

	return !thread->to && !(task->flags & PF_EXITING) &&
	       (READ_ONCE(task->files) != thread->cur->files ||
		READ_ONCE(task->fs) != thread->cur->fs);
}

bool corsa_refuse_switch(struct corsa_session *session, struct corsa_record *to)
{
	struct corsa_refusals none = { .cap = 0 };
	struct corsa_thread *thread;
	bool refused = false;

	if (to && cred_changed(session->leader, to->cred))
		return true;
	spin_lock(&session->lock);
	list_for_each_entry(thread, &session->threads, link) {
		struct task_struct *task = thread->task;

		if (task->io_uring || holds_pi_futex(task) ||
		    READ_ONCE(task->ptrace) || unshared_locked(thread)) {
			refused = true;
			break;
		}
	}
	spin_unlock(&session->lock);
	if (refused || !READ_ONCE(session->foreign) || !session->active)
		return refused;
	refused = refuse_sharers(session->active->mm, session->leader, &none);
	if (!refused)
		WRITE_ONCE(session->foreign, false);
	return refused;
}
