// SPDX-License-Identifier: GPL-2.0
#include <linux/hashtable.h>
#include <linux/module.h>
#include <linux/ptrace.h>
#include <linux/rculist.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "activate.h"
#include "binder_gate.h"
#include "compat.h"
#include "record.h"
#include "refuse.h"
#include "session.h"
#include "symbols.h"
#include "thread.h"

struct workqueue_struct *corsa_workqueue;

static DEFINE_HASHTABLE(table, 6);
static DEFINE_SPINLOCK(table_lock);
/* Serialises ATTACH, so that two callers cannot both find no session. */
static DEFINE_MUTEX(attach_lock);

static void free_session(struct rcu_head *head)
{
	kfree(container_of(head, struct corsa_session, rcu));
}

static void release_work(struct work_struct *work)
{
	struct corsa_session *session;

	session = container_of(work, struct corsa_session, release);
	put_task_struct(session->leader);
	corsa_gate_free(session);
	corsa_stats_free(&session->stats);
	free_cpumask_var(session->cpus);
	xa_destroy(&session->records);
	call_rcu(&session->rcu, free_session);
	module_put(THIS_MODULE);
}

static void release(struct kref *ref)
{
	struct corsa_session *session;

	session = container_of(ref, struct corsa_session, ref);
	queue_work(corsa_workqueue, &session->release);
}

struct corsa_session *corsa_session_get(struct corsa_session *session)
{
	kref_get(&session->ref);
	return session;
}

void corsa_session_put(struct corsa_session *session)
{
	kref_put(&session->ref, release);
}

struct corsa_session *corsa_session_of(struct task_struct *task)
{
	struct corsa_session *session;

	hash_for_each_possible_rcu(table, session, node,
				   (unsigned long)task->signal)
		if (session->signal == task->signal)
			return session;
	return NULL;
}

bool corsa_session_permitted(struct corsa_session *session)
{
	return corsa_call(ptrace_may_access)(session->leader,
					     PTRACE_MODE_ATTACH_REALCREDS);
}

/* The process has nothing to do with the session any more. */
static void end_work(struct work_struct *work)
{
	struct corsa_session *session;
	struct corsa_record *record;
	unsigned long id;

	session = container_of(work, struct corsa_session, end);
	corsa_gate_over(session);
	/* After the request that may be using them, which sees that it is over. */
	mutex_lock(&session->control);
	xa_for_each(&session->records, id, record)
		corsa_record_remove(record);
	corsa_gate_end(session);
	mutex_unlock(&session->control);
	corsa_session_put(session);
}

/* Takes it out of the table; the records are freed by a worker. */
static void end_locked(struct corsa_session *session)
{
	lockdep_assert_held(&session->lock);
	session->over = true;
	session->active = NULL;
	session->last = NULL;
	session->standby = NULL;
	session->actions_of = NULL;
	spin_lock(&table_lock);
	hash_del_rcu(&session->node);
	spin_unlock(&table_lock);
	wake_up_all(&session->waiting);
	queue_work(corsa_workqueue, &session->end);
}

void corsa_session_over(struct corsa_session *session, u32 event)
{
	bool first;

	spin_lock(&session->lock);
	first = !session->over;
	if (first) {
		end_locked(session);
		corsa_threads_forget_locked(session);
	}
	spin_unlock(&session->lock);
	if (!first)
		return;
	corsa_events_add(&session->events, (struct corsa_event){
		.type = event, .id = CORSA_NONE, .next = CORSA_NONE,
		.tid = task_tgid_nr(session->leader) });
	corsa_events_end(&session->events);
}

void corsa_session_parted_locked(struct corsa_session *session)
{
	if (!session->over)
		end_locked(session);
}

static struct corsa_session *create(struct task_struct *leader, bool persist)
{
	struct corsa_session *session;

	session = kzalloc(sizeof(*session), GFP_KERNEL_ACCOUNT);
	if (!session)
		return NULL;
	if (!zalloc_cpumask_var(&session->cpus, GFP_KERNEL_ACCOUNT)) {
		kfree(session);
		return NULL;
	}
	kref_init(&session->ref);
	session->leader = get_task_struct(leader);
	session->signal = leader->signal;
	session->persist = persist;
	session->policy = CORSA_CRASH_PARK;
	atomic_set(&session->openers, 1);
	mutex_init(&session->control);
	spin_lock_init(&session->lock);
	xa_init(&session->records);
	INIT_LIST_HEAD(&session->threads);
	kthread_init_work(&session->sweep, corsa_activate_sweep);
	INIT_DELAYED_WORK(&session->later, corsa_activate_sweep_later);
	INIT_WORK(&session->end, end_work);
	INIT_WORK(&session->release, release_work);
	init_waitqueue_head(&session->parked);
	init_waitqueue_head(&session->waiting);
	corsa_events_init(&session->events);
	__module_get(THIS_MODULE);
	return session;
}

/* Record 0: what the process is now. */
static struct corsa_record *adopt_process(struct corsa_session *session)
{
	struct task_struct *leader = session->leader;
	struct corsa_record *record = corsa_record_create(session);

	if (!record)
		return ERR_PTR(-ENOMEM);
	record->cred = get_task_cred(leader);
	record->mm = get_task_mm(leader);
	task_lock(leader);
	if (leader->files) {
		atomic_inc(&leader->files->count);
		record->files = leader->files;
	}
	if (leader->fs) {
		spin_lock(&leader->fs->lock);
		leader->fs->users++;
		spin_unlock(&leader->fs->lock);
		record->fs = leader->fs;
	}
	task_unlock(leader);
	if (record->mm && record->files && record->fs &&
	    !corsa_record_publish(record))
		return record;
	corsa_record_put(record);
	return ERR_PTR(-ESRCH);
}

/* From here on the probes know the process. */
static void enter_table(struct corsa_session *session,
			struct corsa_record *record)
{
	spin_lock(&session->lock);
	session->active = record;
	session->last = record;
	session->actions_of = record;
	corsa_session_get(session); /* the process's own, until end_work() */
	spin_lock(&table_lock);
	hash_add_rcu(table, &session->node, (unsigned long)session->signal);
	spin_unlock(&table_lock);
	spin_unlock(&session->lock);
}

static struct corsa_session *attach_new(struct task_struct *leader,
					struct corsa_attach *args,
					struct corsa_refusals *refusals)
{
	struct corsa_session *session;
	struct corsa_record *record;
	int ret;

	session = create(leader, args->flags & CORSA_ATTACH_PERSIST);
	if (!session)
		return ERR_PTR(-ENOMEM);
	mutex_lock(&session->control);
	record = adopt_process(session);
	if (IS_ERR(record)) {
		ret = PTR_ERR(record);
		mutex_unlock(&session->control);
		corsa_session_put(session);
		return ERR_PTR(ret);
	}
	enter_table(session, record);
	ret = corsa_threads_adopt(session, record);
	/* It may have executed another program before the probes knew it. */
	if (!ret && READ_ONCE(leader->mm) != record->mm)
		ret = -ESRCH;
	if (!ret) {
		corsa_refuse_record(record, true, refusals);
		if (refusals->count)
			ret = -EOPNOTSUPP;
	}
	if (!ret && session->over)
		ret = -ESRCH;
	if (ret)
		corsa_session_detach(session);
	args->threads = session->thread_count;
	mutex_unlock(&session->control);
	if (ret) {
		corsa_session_put(session);
		return ERR_PTR(ret);
	}
	return session;
}

static bool parted(struct corsa_session *session)
{
	return READ_ONCE(session->over);
}

static struct corsa_session *join(struct corsa_session *session,
				  struct corsa_attach *args)
{
	int ret = 0;

	if (!session->persist)
		return ERR_PTR(-EBUSY);
	mutex_lock(&session->control);
	if (session->over || session->parting)
		ret = -EBUSY; /* about to go: try again */
	else
		atomic_inc(&session->openers);
	args->threads = session->thread_count;
	mutex_unlock(&session->control);
	args->joined = !ret;
	return ret ? ERR_PTR(ret) : session;
}

/* With a reference. One that is being left by its threads is waited for. */
static struct corsa_session *find(struct task_struct *leader)
{
	struct corsa_session *session;
	int attempts;

	for (attempts = 0; attempts < 2; attempts++) {
		rcu_read_lock();
		session = corsa_session_of(leader);
		if (session && !kref_get_unless_zero(&session->ref))
			session = NULL;
		rcu_read_unlock();
		if (!session || !READ_ONCE(session->parting) || attempts)
			break;
		wait_event_killable_timeout(session->waiting, parted(session),
					    HZ);
		corsa_session_put(session);
	}
	return session;
}

struct corsa_session *corsa_session_attach(struct task_struct *leader,
					   struct corsa_attach *args,
					   struct corsa_refusals *refusals)
{
	struct corsa_session *session, *joined;

	mutex_lock(&attach_lock);
	session = find(leader);
	if (session) {
		joined = join(session, args);
		/* On success the reference is the new opener's. */
		if (IS_ERR(joined))
			corsa_session_put(session);
		session = joined;
	} else {
		session = attach_new(leader, args, refusals);
	}
	mutex_unlock(&attach_lock);
	return session;
}

/* Where the threads go for good. Holds lock. */
static struct corsa_record *settlement_locked(struct corsa_session *session)
{
	struct corsa_record *record;
	unsigned long id;

	if (session->active)
		return session->active;
	if (session->last && corsa_record_runnable(session->last))
		return session->last;
	xa_for_each(&session->records, id, record)
		if (!record->doomed && corsa_record_runnable(record))
			return record;
	return NULL;
}

static void begin_parting(struct corsa_session *session)
{
	struct corsa_thread *thread;
	struct corsa_record *to;

	spin_lock(&session->lock);
	if (session->over || session->parting) {
		spin_unlock(&session->lock);
		return;
	}
	to = settlement_locked(session);
	session->parting = true;
	session->active = to;
	session->held = false;
	if (list_empty(&session->threads))
		corsa_session_parted_locked(session);
	spin_unlock(&session->lock);
	if (!to)
		/* Each instance has come to the end that was held up. */
		send_sig(SIGKILL, session->leader, 1);
	rcu_read_lock();
	list_for_each_entry_rcu(thread, &session->threads, link)
		corsa_thread_kick(thread);
	rcu_read_unlock();
	wake_up_all(&session->parked);
}

int corsa_session_detach(struct corsa_session *session)
{
	bool over = session->over;

	begin_parting(session);
	if (!over) {
		corsa_events_add(&session->events, (struct corsa_event){
			.type = CORSA_EVENT_DETACHED, .id = CORSA_NONE,
			.next = CORSA_NONE,
			.tid = task_tgid_nr(session->leader) });
		corsa_events_end(&session->events);
	}
	return wait_event_timeout(session->waiting, parted(session),
				  CORSA_PATIENCE) ? 0 : -EBUSY;
}

void corsa_session_close(struct corsa_session *session)
{
	/* Threads that sleep uninterruptibly settle when they wake up. */
	if (atomic_dec_and_test(&session->openers) && !session->persist)
		begin_parting(session);
	corsa_session_put(session);
}

int corsa_session_init(void)
{
	corsa_workqueue = alloc_workqueue("corsa", WQ_UNBOUND, 0);
	return corsa_workqueue ? 0 : -ENOMEM;
}

void corsa_session_exit(void)
{
	destroy_workqueue(corsa_workqueue);
	rcu_barrier(); /* free_session() */
}
