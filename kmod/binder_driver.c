// SPDX-License-Identifier: GPL-2.0
/*
 * What is done with the driver's own structures. Their layout comes from the
 * header of the driver that the module was built for.
 */
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/static_call.h>
#include <linux/version.h>

#include "binder_internal.h"
#include "binder_state.h"
#include "session.h"
#include "symbols.h"

#define DRIVER_SYMBOLS(X)                                                      \
	X(void, binder_send_failed_reply, struct binder_transaction *, u32)    \
	X(void, binder_free_transaction, struct binder_transaction *)          \
	X(void, binder_free_buf, struct binder_proc *, struct binder_thread *, \
	  struct binder_buffer *, bool)                                        \
	X(void, binder_dec_node_tmpref, struct binder_node *)                  \
	X(void, binder_thread_dec_tmpref, struct binder_thread *)              \
	X(int, binder_update_ref_for_handle, struct binder_proc *, uint32_t,   \
	  bool, bool, struct binder_ref_data *)                                \
	X(void, binder_wakeup_proc_ilocked, struct binder_proc *)              \
	X(struct binder_buffer *, binder_alloc_prepare_to_free,                \
	  struct binder_alloc *, uintptr_t)

#define DEFINE_SYMBOL(ret, name, ...)                                          \
	ret corsa_proto_##name(__VA_ARGS__);                                   \
	DEFINE_STATIC_CALL_NULL(corsa_##name, corsa_proto_##name);
DRIVER_SYMBOLS(DEFINE_SYMBOL)

static const struct file_operations *driver_fops(void)
{
	static const struct file_operations *fops;

	if (!READ_ONCE(fops))
		WRITE_ONCE(fops, (void *)corsa_symbols_find("binder_fops"));
	return READ_ONCE(fops);
}

int corsa_driver_init(void)
{
	unsigned long address;
	int missing = 0;

	if (!driver_fops())
		return -ENODEV;

#define RESOLVE(ret, name, ...)                                                \
	address = corsa_symbols_find(#name);                                   \
	if (address)                                                           \
		static_call_update(corsa_##name,                               \
				   (typeof(&corsa_proto_##name))address);      \
	else                                                                   \
		pr_err("corsa: Binder's driver has no symbol " #name "\n");    \
	missing += !address;

	DRIVER_SYMBOLS(RESOLVE)
	return missing ? -ENOSYS : 0;
}

struct binder_proc *corsa_driver_proc(const struct file *file)
{
	return file->private_data;
}

bool corsa_binder_mapping(struct vm_area_struct *vma)
{
	return vma->vm_file && vma->vm_flags & VM_DONTCOPY &&
	       driver_fops() && vma->vm_file->f_op == driver_fops();
}

static struct binder_thread *find_thread(struct binder_proc *proc, pid_t tid)
{
	struct rb_node *node = proc->threads.rb_node;
	struct binder_thread *thread;

	while (node) {
		thread = rb_entry(node, struct binder_thread, rb_node);
		if (tid < thread->pid)
			node = node->rb_left;
		else if (tid > thread->pid)
			node = node->rb_right;
		else
			return thread;
	}
	return NULL;
}

bool corsa_driver_idle_locked(const struct corsa_gate *gate, pid_t tid)
{
	struct binder_thread *thread;
	bool idle = true;
	u32 i;

	for (i = 0; i < gate->proc_count && idle; i++) {
		struct binder_proc *proc = gate->procs[i];

		spin_lock(&proc->inner_lock);
		thread = find_thread(proc, tid);
		idle = !thread || list_empty(&thread->todo);
		spin_unlock(&proc->inner_lock);
	}
	return idle;
}

void corsa_driver_put_node(struct binder_node *node)
{
	static_call(corsa_binder_dec_node_tmpref)(node);
}

void corsa_driver_drop_ref(struct binder_proc *proc, u32 desc, bool strong)
{
	struct binder_ref_data data;

	static_call(corsa_binder_update_ref_for_handle)(proc, desc, false,
							strong, &data);
}

void corsa_driver_wake_ilocked(struct binder_proc *proc)
{
	static_call(corsa_binder_wakeup_proc_ilocked)(proc);
}

int corsa_driver_last_node(const struct corsa_gate *gate)
{
	struct rb_node *link;
	int last = 0;
	u32 i;

	for (i = 0; i < gate->proc_count; i++) {
		struct binder_proc *proc = gate->procs[i];

		spin_lock(&proc->inner_lock);
		for (link = rb_first(&proc->nodes); link; link = rb_next(link))
			last = max(last, rb_entry(link, struct binder_node,
						  rb_node)->debug_id);
		spin_unlock(&proc->inner_lock);
	}
	return last;
}

/* Deeper than any thread is nested; what is beyond stays until the end. */
#define BUFFERS_MAX 32

/* What was taken off one thread, to be ended without the driver's locks. */
struct taken {
	struct list_head work;
	struct binder_thread *called; /* somebody was about to reply to it */
	struct binder_transaction *unanswered;
	struct binder_buffer *buffers[BUFFERS_MAX];
	u32 count;
};

/*
 * As binder_thread_release(), for a thread that stays. The calls that it makes
 * get no answer any more, the one that it handles is answered. If it handles it
 * by a call of its own, then that one's end passes the failure on.
 */
static void take_stack_ilocked(struct binder_thread *thread,
			       struct taken *taken)
{
	struct binder_transaction *t = thread->transaction_stack, *next;

	if (t && t->to_thread == thread)
		taken->unanswered = t;
	for (; t; t = next) {
		spin_lock(&t->lock);
		if (t->to_thread == thread) {
			thread->proc->outstanding_txns--;
			t->to_proc = NULL;
			t->to_thread = NULL;
			if (t->buffer) {
				if (taken->count < BUFFERS_MAX)
					taken->buffers[taken->count++] =
						t->buffer;
				t->buffer->transaction = NULL;
				t->buffer = NULL;
			}
			next = t->to_parent;
		} else {
			t->from = NULL;
			next = t->from_parent;
			taken->called = thread;
		}
		spin_unlock(&t->lock);
	}
	thread->transaction_stack = NULL;
	if (taken->called) {
		atomic_inc(&thread->tmp_ref);
		thread->is_dead = true;
	}
}

/*
 * Whoever replies finds the thread by its call, and later, having dropped all
 * locks in between, insists that the call is on the thread's stack: unless the
 * thread is dead. So it is, until all who have found it are done; nobody else
 * can, as its calls do not name it any more. Our reference keeps it.
 */
static void let_repliers_finish(struct binder_proc *proc,
				struct binder_thread *thread)
{
	if (!thread)
		return;
	while (atomic_read(&thread->tmp_ref) > 1)
		schedule_timeout_uninterruptible(1);
	spin_lock(&proc->inner_lock);
	/* Unless it has left the driver for good. */
	if (find_thread(proc, thread->pid) == thread)
		thread->is_dead = false;
	spin_unlock(&proc->inner_lock);
	static_call(corsa_binder_thread_dec_tmpref)(thread);
}

/* What is about objects and deaths is not about transactions. */
static void take_work_ilocked(struct binder_proc *proc,
			      struct binder_thread *thread,
			      struct taken *taken)
{
	struct binder_work *work, *next;

	list_for_each_entry_safe(work, next, &thread->todo, entry) {
		switch (work->type) {
		case BINDER_WORK_TRANSACTION:
		case BINDER_WORK_TRANSACTION_COMPLETE:
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
		case BINDER_WORK_TRANSACTION_PENDING:
#endif
		case BINDER_WORK_TRANSACTION_ONEWAY_SPAM_SUSPECT:
			list_move_tail(&work->entry, &taken->work);
			break;
		case BINDER_WORK_RETURN_ERROR:
			list_del_init(&work->entry);
			container_of(work, struct binder_error, work)->cmd =
				BR_OK;
			break;
		default:
			list_move_tail(&work->entry, &proc->todo);
		}
	}
	thread->process_todo = false;
	/* What it waits for has changed. */
	thread->looper_need_return = true;
	wake_up_interruptible(&thread->wait);
}

/* False: no thread has anything any more. */
static bool take_thread(struct binder_proc *proc, struct taken *taken)
{
	struct binder_thread *thread;
	struct rb_node *node;
	bool found = false;

	spin_lock(&proc->inner_lock);
	for (node = rb_first(&proc->threads); node; node = rb_next(node)) {
		thread = rb_entry(node, struct binder_thread, rb_node);
		found = thread->transaction_stack || !list_empty(&thread->todo);
		if (found) {
			take_stack_ilocked(thread, taken);
			take_work_ilocked(proc, thread, taken);
			break;
		}
	}
	spin_unlock(&proc->inner_lock);
	return found;
}

/* False: no transaction is queued for any thread. */
static bool take_queue(struct binder_proc *proc, struct taken *taken)
{
	struct binder_work *work, *next;

	spin_lock(&proc->inner_lock);
	list_for_each_entry_safe(work, next, &proc->todo, entry)
		if (work->type == BINDER_WORK_TRANSACTION)
			list_move_tail(&work->entry, &taken->work);
	spin_unlock(&proc->inner_lock);
	return !list_empty(&taken->work);
}

/* Nobody has seen it. */
static void end_queued(struct binder_proc *proc, struct binder_transaction *t)
{
	struct binder_buffer *buffer = t->buffer;

	if (buffer->target_node && !(t->flags & TF_ONE_WAY))
		static_call(corsa_binder_send_failed_reply)(t, BR_FAILED_REPLY);
	else
		static_call(corsa_binder_free_transaction)(t);
	static_call(corsa_binder_free_buf)(proc, NULL, buffer, true);
}

/*
 * Descriptors that came with a buffer are left to the record that has them,
 * which is why all are freed as if they had failed.
 */
static void end_taken(struct binder_proc *proc, struct taken *taken)
{
	struct binder_work *work, *next;
	u32 i;

	if (taken->unanswered)
		static_call(corsa_binder_send_failed_reply)(taken->unanswered,
							    BR_FAILED_REPLY);
	for (i = 0; i < taken->count; i++)
		static_call(corsa_binder_free_buf)(proc, NULL,
						   taken->buffers[i], true);
	list_for_each_entry_safe(work, next, &taken->work, entry) {
		list_del_init(&work->entry);
		if (work->type == BINDER_WORK_TRANSACTION)
			end_queued(proc,
				   container_of(work, struct binder_transaction,
						work));
		else
			kfree(work);
	}
}

/*
 * A oneway call that has been delivered is a buffer and nothing else. Freeing
 * it lets the next one for the same object into the queue.
 */
static bool end_oneway(struct corsa_gate *gate, struct binder_proc *proc)
{
	struct corsa_ticket *ticket;
	struct binder_buffer *buffer;
	uintptr_t address = 0;
	int debug_id = 0;

	spin_lock(&gate->lock);
	list_for_each_entry(ticket, &gate->tickets, link)
		if (ticket->oneway && ticket->delivered &&
		    ticket->proc == proc) {
			address = ticket->buffer;
			debug_id = ticket->debug_id;
			break;
		}
	spin_unlock(&gate->lock);
	if (!address)
		return false;
	buffer = static_call(corsa_binder_alloc_prepare_to_free)(&proc->alloc,
								 address);
	if (IS_ERR_OR_NULL(buffer))
		corsa_ticket_forget(gate, debug_id);
	else
		static_call(corsa_binder_free_buf)(proc, NULL, buffer, true);
	return true;
}

void corsa_driver_abort(struct corsa_gate *gate)
{
	bool again;
	u32 i;

	for (i = 0; i < gate->proc_count; i++) {
		struct binder_proc *proc = gate->procs[i];

		do {
			struct taken taken = {
				.work = LIST_HEAD_INIT(taken.work),
			};

			again = take_thread(proc, &taken);
			again |= take_queue(proc, &taken);
			let_repliers_finish(proc, taken.called);
			end_taken(proc, &taken);
			again |= end_oneway(gate, proc);
		} while (again);
	}
}
