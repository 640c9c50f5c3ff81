// SPDX-License-Identifier: GPL-2.0
/*
 * Getting between Binder's driver and its users.
 *
 * binder_proc_transaction() is where a request (never a reply) is queued for
 * the process that it is for. It is called with no lock held, from a system
 * call. A driver that has a place for a gate there (driver/binder_gate_hook.h)
 * calls us. In any other a kprobe sends the calls that concern a gate to
 * gated(), which may sleep and then calls the original. What happens to
 * transactions later is told by the driver's own tracepoints.
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/static_call.h>
#include <linux/tracepoint.h>

#include "binder_internal.h"
#include "binder_state.h"
#include "session.h"
#include "symbols.h"

static DEFINE_MUTEX(hook_lock);
static u32 kind; /* enum corsa_binder_hook; 0: not yet */

int corsa_proto_original(struct binder_transaction *t, struct binder_proc *proc,
			 struct binder_thread *thread);
DEFINE_STATIC_CALL_NULL(corsa_original, corsa_proto_original);

typedef int (*queue_t)(struct binder_transaction *t, struct binder_proc *proc,
		       struct binder_thread *thread);
typedef int (*gate_t)(struct binder_transaction *t, struct binder_proc *proc,
		      struct binder_thread *thread, queue_t queue);

/* As in driver/binder_gate_hook.h. */
void corsa_proto_set_gate(gate_t gate);
DEFINE_STATIC_CALL_NULL(corsa_set_gate, corsa_proto_set_gate);

/* Tasks between the probe and the end of gated(). */
static atomic_t inside = ATOMIC_INIT(0);
/* The original can be entered behind the probe. */
static bool behind;

/* Not a tail call: the probe knows us by the return address. */
static noinline int call_original(struct binder_transaction *t,
				  struct binder_proc *proc,
				  struct binder_thread *thread)
{
	int ret = static_call(corsa_original)(t, proc, thread);

	OPTIMIZER_HIDE_VAR(ret);
	return ret;
}

static int pass(struct binder_transaction *t, struct binder_proc *proc,
		struct binder_thread *thread, queue_t queue)
{
	int debug_id = t->debug_id; /* once it is queued t may go any time */
	int ret = corsa_gate_pass(t, proc, thread);

	if (!ret) {
		ret = queue(t, proc, thread);
		corsa_ticket_queued(debug_id, !ret);
	}
	return ret;
}

static int gated(struct binder_transaction *t, struct binder_proc *proc,
		 struct binder_thread *thread)
{
	int ret = pass(t, proc, thread, call_original);

	atomic_dec(&inside);
	return ret;
}

static bool has_gate(struct task_struct *task)
{
	struct corsa_session *session = corsa_session_of(task);

	return session && READ_ONCE(session->gate) && !READ_ONCE(session->over);
}

static bool concerns_gate(const struct binder_proc *proc)
{
	bool ret;

	rcu_read_lock();
	ret = has_gate(proc->tsk) || has_gate(current);
	rcu_read_unlock();
	return ret;
}

/* The driver's own hook. */
static int gate(struct binder_transaction *t, struct binder_proc *proc,
		struct binder_thread *thread, queue_t queue)
{
	return concerns_gate(proc) ? pass(t, proc, thread, queue) :
				     queue(t, proc, thread);
}

/* In the kprobe nothing is decided: it may not sleep. */
static int before_transaction(struct kprobe *probe, struct pt_regs *regs)
{
	struct binder_proc *proc = (void *)regs_get_kernel_argument(regs, 1);

	if (!behind && within_module(*(unsigned long *)regs->sp, THIS_MODULE))
		return 0;
	if (!concerns_gate(proc))
		return 0;
	atomic_inc(&inside);
	instruction_pointer_set(regs, (unsigned long)gated);
	return 1;
}

/* A probe that changes the instruction pointer must have one. */
static void after(struct kprobe *probe, struct pt_regs *regs,
		  unsigned long flags)
{
}

static struct kprobe probe = {
	.symbol_name = "binder_proc_transaction",
	.pre_handler = before_transaction,
	.post_handler = after,
};

/* Probes of tracepoints; preemption is off, and the driver holds no lock. */
static void on_free(void *unused, struct binder_transaction *t, int from_proc,
		    int from_thread, int to_proc, int to_thread)
{
	corsa_ticket_ended(t);
}

static void on_buffer(void *unused, struct binder_buffer *buffer)
{
	corsa_ticket_buffer_freed(buffer);
	if (buffer->offsets_size)
		corsa_refs_touch();
}

static void on_received(void *unused, struct binder_transaction *t)
{
	corsa_ticket_received(t);
}

static void on_node(void *unused, struct binder_transaction *t,
		    struct binder_node *node, struct binder_ref_data *data)
{
	corsa_node_sent(node);
	corsa_refs_sent(t, data->desc);
}

static void on_handle(void *unused, struct binder_transaction *t,
		      struct binder_node *node, struct binder_ref_data *from,
		      struct binder_ref_data *to)
{
	corsa_refs_sent(t, to->desc);
}

static void on_command(void *unused, u32 command)
{
	switch (command) {
	case BC_INCREFS:
	case BC_ACQUIRE:
	case BC_RELEASE:
	case BC_DECREFS:
	case BC_REQUEST_DEATH_NOTIFICATION:
	case BC_CLEAR_DEATH_NOTIFICATION:
	case BC_DEAD_BINDER_DONE:
		corsa_refs_touch();
	}
}

static void on_ioctl_done(void *unused, int ret)
{
	corsa_ticket_ioctl_done();
}

static struct {
	const char *name;
	void *function;
	struct tracepoint *point;
	bool registered;
} points[] = {
	{ "binder_txn_latency_free", on_free },
	{ "binder_transaction_buffer_release", on_buffer },
	{ "binder_transaction_update_buffer_release", on_buffer },
	{ "binder_transaction_received", on_received },
	{ "binder_ioctl_done", on_ioctl_done },
	{ "binder_transaction_node_to_ref", on_node },
	{ "binder_transaction_ref_to_ref", on_handle },
	{ "binder_command", on_command },
};

static void match(struct tracepoint *point, void *unused)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(points); i++)
		if (!strcmp(point->name, points[i].name))
			points[i].point = point;
}

/* The driver may be a module, which never goes, or built in. */
static int match_module(struct notifier_block *block, unsigned long action,
			void *data)
{
	struct tp_module *module = data;
	unsigned int i;

	if (action != MODULE_STATE_COMING)
		return NOTIFY_DONE;
	for (i = 0; i < module->mod->num_tracepoints; i++)
		match(tracepoint_ptr_deref(&module->mod->tracepoints_ptrs[i]),
		      NULL);
	return NOTIFY_OK;
}

static struct notifier_block module_block = {
	.notifier_call = match_module,
};

static void leave_points(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(points); i++) {
		if (points[i].registered)
			tracepoint_probe_unregister(points[i].point,
						    points[i].function, NULL);
		points[i].registered = false;
	}
	tracepoint_synchronize_unregister();
}

static int join_points(void)
{
	size_t i;
	int ret;

	for_each_kernel_tracepoint(match, NULL);
	/* It is told of the modules that are there already. */
	ret = register_tracepoint_module_notifier(&module_block);
	if (ret)
		return ret;
	unregister_tracepoint_module_notifier(&module_block);
	for (i = 0; i < ARRAY_SIZE(points); i++) {
		ret = points[i].point ?
			      tracepoint_probe_register(points[i].point,
							points[i].function,
							NULL) :
			      -ENOENT;
		if (ret) {
			pr_err("corsa: Binder's driver has no tracepoint %s: %d\n",
			       points[i].name, ret);
			leave_points();
			return -ENOSYS;
		}
		points[i].registered = true;
	}
	return 0;
}

/* Where ftrace does the probing, the function proper begins after its site. */
static void find_original(void)
{
	unsigned long address = (unsigned long)probe.addr;

	behind = probe.flags & KPROBE_FLAG_FTRACE;
	if (behind)
		address += MCOUNT_INSN_SIZE;
	static_call_update(corsa_original,
			   (typeof(&corsa_proto_original))address);
}

static int join_kprobe(void)
{
	unsigned long address = corsa_symbols_find(probe.symbol_name);
	int ret;

	if (!address) {
		pr_err("corsa: Binder's driver has no symbol %s\n",
		       probe.symbol_name);
		return -ENOSYS;
	}
	/* For those that come before find_original(). */
	static_call_update(corsa_original,
			   (typeof(&corsa_proto_original))address);
	ret = register_kprobe(&probe);
	if (ret) {
		pr_err("corsa: cannot probe %s: %d\n", probe.symbol_name, ret);
		return -ENOSYS;
	}
	find_original();
	return 0;
}

/* Does the driver have a place for a gate? */
static bool join_driver(void)
{
	unsigned long address = corsa_symbols_find("binder_set_gate");

	if (!address)
		return false;
	static_call_update(corsa_set_gate,
			   (typeof(&corsa_proto_set_gate))address);
	static_call(corsa_set_gate)(gate);
	return true;
}

int corsa_hook_driver(void)
{
	int ret = 0;

	mutex_lock(&hook_lock);
	if (kind)
		goto unlock;
	ret = corsa_driver_init();
	if (ret)
		goto unlock;
	ret = join_points();
	if (ret)
		goto unlock;
	if (join_driver()) {
		kind = CORSA_BINDER_DRIVER;
		goto unlock;
	}
	ret = join_kprobe();
	if (ret)
		leave_points();
	else
		kind = CORSA_BINDER_KPROBE;
unlock:
	mutex_unlock(&hook_lock);
	return ret;
}

u32 corsa_hook_kind(void)
{
	return kind;
}

static void leave_kprobe(void)
{
	unregister_kprobe(&probe);
	while (atomic_read(&inside))
		schedule_timeout_uninterruptible(1);
}

/* No session is left, so nobody comes in any more. */
void corsa_binder_exit(void)
{
	if (kind == CORSA_BINDER_DRIVER)
		static_call(corsa_set_gate)(NULL);
	else if (kind)
		leave_kprobe();
	if (kind)
		leave_points();
	corsa_shadow_exit();
}
