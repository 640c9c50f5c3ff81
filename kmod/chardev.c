// SPDX-License-Identifier: GPL-2.0
/* /dev/corsa and session descriptors: what is said in uapi/corsa.h, no more. */
#include <linux/anon_inodes.h>
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "activate.h"
#include "binder_gate.h"
#include "chardev.h"
#include "copy.h"
#include "crash.h"
#include "exit.h"
#include "fds.h"
#include "memory.h"
#include "record.h"
#include "refuse.h"
#include "session.h"
#include "symbols.h"

/* More refusals than this are counted, not listed. */
#define REFUSALS_MAX 1024

/* Any structure of the interface; each begins with its size. */
union argument {
	u32 size;
	struct corsa_version version;
	struct corsa_attach attach;
	struct corsa_copy copy;
	struct corsa_restore restore;
	struct corsa_activate activate;
	struct corsa_discard discard;
	struct corsa_list list;
	struct corsa_fds fds;
	struct corsa_getfd getfd;
	struct corsa_crash crash;
	struct corsa_stats stats;
	struct corsa_samples samples;
	struct corsa_memory memory;
	struct corsa_detach detach;
	struct corsa_persist persist;
	struct corsa_binder_enable binder_enable;
	struct corsa_binder_route binder_route;
	struct corsa_binder_routes binder_routes;
	struct corsa_binder_stats binder_stats;
};

static int fetch(union argument *arg, size_t known, void __user *user)
{
	u32 size;

	if (get_user(size, (u32 __user *)user))
		return -EFAULT;
	if (size < sizeof(u32) || size > PAGE_SIZE)
		return -EINVAL;
	return copy_struct_from_user(arg, known, user, size);
}

/* The caller's structure may be longer: the rest of it is zeroed. */
static int store(const union argument *arg, size_t known, void __user *user)
{
	size_t size = arg->size;

	if (copy_to_user(user, arg, min(size, known)))
		return -EFAULT;
	if (size > known && clear_user(user + known, size - known))
		return -EFAULT;
	return 0;
}

static int begin_refusals(struct corsa_refusals *refusals, u32 cap)
{
	refusals->cap = min_t(u32, cap, REFUSALS_MAX);
	refusals->count = 0;
	refusals->list = NULL;
	if (!refusals->cap)
		return 0;
	refusals->list = kvcalloc(refusals->cap, sizeof(*refusals->list),
				  GFP_KERNEL_ACCOUNT);
	return refusals->list ? 0 : -ENOMEM;
}

static long end_refusals(struct corsa_refusals *refusals, u64 user, long ret)
{
	u32 stored = min(refusals->count, refusals->cap);

	if (stored && copy_to_user(u64_to_user_ptr(user), refusals->list,
				   stored * sizeof(*refusals->list)))
		ret = -EFAULT;
	kvfree(refusals->list);
	return ret;
}

static long copy_request(struct corsa_session *session, struct corsa_copy *args,
			 bool image)
{
	struct corsa_refusals refusals;
	long ret = begin_refusals(&refusals, args->refusal_cap);

	if (ret)
		return ret;
	ret = corsa_copy(session, args, image, &refusals);
	args->refusal_count = refusals.count;
	return end_refusals(&refusals, args->refusals, ret);
}

static long restore_request(struct corsa_session *session,
			    struct corsa_restore *args)
{
	struct corsa_refusals refusals;
	long ret = begin_refusals(&refusals, args->refusal_cap);

	if (ret)
		return ret;
	ret = corsa_restore(session, args, &refusals);
	args->refusal_count = refusals.count;
	return end_refusals(&refusals, args->refusals, ret);
}

static long session_request(struct corsa_session *session, unsigned int number,
			    union argument *arg)
{
	switch (number) {
	case _IOC_NR(CORSA_IOC_CHECKPOINT):
		return copy_request(session, &arg->copy, true);
	case _IOC_NR(CORSA_IOC_BRANCH):
		return copy_request(session, &arg->copy, false);
	case _IOC_NR(CORSA_IOC_RESTORE):
		return restore_request(session, &arg->restore);
	case _IOC_NR(CORSA_IOC_ACTIVATE):
		return corsa_activate(session, &arg->activate);
	case _IOC_NR(CORSA_IOC_DISCARD):
		return arg->discard.reserved ?
			       -EINVAL :
			       corsa_record_discard(session, arg->discard.id);
	case _IOC_NR(CORSA_IOC_LIST):
		return corsa_record_list(session, &arg->list);
	case _IOC_NR(CORSA_IOC_FDS):
		return corsa_fds(session, &arg->fds);
	case _IOC_NR(CORSA_IOC_GETFD):
		return corsa_getfd(session, &arg->getfd);
	case _IOC_NR(CORSA_IOC_CRASH):
		return corsa_crash_set(session, &arg->crash);
	case _IOC_NR(CORSA_IOC_SAMPLES):
		return corsa_stats_samples(session, &arg->samples);
	case _IOC_NR(CORSA_IOC_MEMORY):
		return corsa_memory(session, &arg->memory);
	case _IOC_NR(CORSA_IOC_BINDER_ENABLE):
		return corsa_gate_enable(session, &arg->binder_enable);
	case _IOC_NR(CORSA_IOC_BINDER_ROUTE):
		return corsa_gate_route(session, &arg->binder_route);
	case _IOC_NR(CORSA_IOC_BINDER_ROUTES):
		return corsa_gate_routes(session, &arg->binder_routes);
	case _IOC_NR(CORSA_IOC_BINDER_STATS):
		return corsa_gate_stats(session, &arg->binder_stats);
	case _IOC_NR(CORSA_IOC_DETACH):
		return arg->detach.reserved ? -EINVAL :
					      corsa_session_detach(session);
	case _IOC_NR(CORSA_IOC_PERSIST):
		if (arg->persist.reserved)
			return -EINVAL;
		session->persist = true;
		return 0;
	}
	return -ENOTTY;
}

/* Requests that read or write what the process knows. */
static bool touches_state(unsigned int number)
{
	return number == _IOC_NR(CORSA_IOC_CHECKPOINT) ||
	       number == _IOC_NR(CORSA_IOC_BRANCH) ||
	       number == _IOC_NR(CORSA_IOC_RESTORE) ||
	       number == _IOC_NR(CORSA_IOC_FDS) ||
	       number == _IOC_NR(CORSA_IOC_GETFD) ||
	       number == _IOC_NR(CORSA_IOC_BINDER_ENABLE);
}

static bool is_active(struct corsa_session *session, u32 id)
{
	bool active;

	spin_lock(&session->lock);
	active = session->active && session->active->id == id;
	spin_unlock(&session->lock);
	return active;
}

/* Must no Binder transaction be in progress meanwhile? */
static bool disturbs(struct corsa_session *session, unsigned int number,
		     const union argument *arg)
{
	if (!READ_ONCE(session->gate))
		return false;
	switch (number) {
	case _IOC_NR(CORSA_IOC_ACTIVATE):
		return true;
	case _IOC_NR(CORSA_IOC_CHECKPOINT):
	case _IOC_NR(CORSA_IOC_BRANCH):
		return is_active(session, arg->copy.src);
	case _IOC_NR(CORSA_IOC_RESTORE):
		return is_active(session, arg->restore.instance) ||
		       is_active(session, arg->restore.image);
	}
	return false;
}

static const unsigned int requests[] = {
	CORSA_IOC_VERSION, CORSA_IOC_ATTACH, CORSA_IOC_CHECKPOINT,
	CORSA_IOC_BRANCH, CORSA_IOC_RESTORE, CORSA_IOC_ACTIVATE,
	CORSA_IOC_DISCARD, CORSA_IOC_LIST, CORSA_IOC_FDS, CORSA_IOC_GETFD,
	CORSA_IOC_CRASH, CORSA_IOC_STATS, CORSA_IOC_SAMPLES, CORSA_IOC_MEMORY,
	CORSA_IOC_DETACH, CORSA_IOC_PERSIST,
	CORSA_IOC_BINDER_ENABLE, CORSA_IOC_BINDER_ROUTE,
	CORSA_IOC_BINDER_ROUTES, CORSA_IOC_BINDER_STATS,
};

/* Requests are told apart by number: sizes differ between versions. */
static size_t known_size(unsigned int request)
{
	unsigned int others = ~_IOC(0, 0, 0, _IOC_SIZEMASK);
	size_t i;

	for (i = 0; i < ARRAY_SIZE(requests); i++)
		if ((requests[i] & others) == (request & others))
			return _IOC_SIZE(requests[i]);
	return 0;
}

static long session_run(struct corsa_session *session, unsigned int number,
			union argument *arg)
{
	bool closed, again = false;
	long ret;

	if (same_thread_group(current, session->leader))
		return -EDEADLK;
	if (touches_state(number) && !corsa_session_permitted(session))
		return -EPERM;
	do {
		closed = disturbs(session, number, arg);
		ret = closed ? corsa_gate_close(session) : 0;
		if (ret)
			return ret;
		ret = -EINTR;
		if (mutex_lock_killable(&session->control))
			break;
		again = !closed && disturbs(session, number, arg);
		if (READ_ONCE(session->over) || READ_ONCE(session->parting))
			ret = -ESRCH;
		else if (!again)
			ret = session_request(session, number, arg);
		mutex_unlock(&session->control);
	} while (again && ret != -ESRCH);
	if (closed)
		corsa_gate_open(session);
	else
		corsa_gate_look_again(session);
	return ret;
}

/* It is large and not urgent, so it does not take the stack. */
static long stats_request(struct corsa_session *session, u32 size,
			  void __user *user)
{
	struct corsa_stats *stats = kzalloc(sizeof(*stats), GFP_KERNEL_ACCOUNT);
	long ret;

	if (!stats)
		return -ENOMEM;
	corsa_stats_read(session, stats);
	stats->size = size;
	ret = store((union argument *)stats, sizeof(*stats), user);
	kfree(stats);
	return ret;
}

static long session_ioctl(struct file *file, unsigned int request,
			  unsigned long address)
{
	struct corsa_session *session = file->private_data;
	void __user *user = (void __user *)address;
	unsigned int number = _IOC_NR(request);
	size_t known = known_size(request);
	union argument arg;
	long ret, stored;

	if (!known || number < _IOC_NR(CORSA_IOC_CHECKPOINT))
		return -ENOTTY;
	if (number == _IOC_NR(CORSA_IOC_STATS)) {
		ret = fetch(&arg, sizeof(u32), user);
		return ret == -E2BIG || !ret ?
			       stats_request(session, arg.size, user) : ret;
	}
	ret = fetch(&arg, known, user);
	if (ret)
		return ret;
	ret = session_run(session, number, &arg);
	/* Failures report as well: refusals, operations done. */
	stored = store(&arg, known, user);
	return ret ? ret : stored;
}

static ssize_t session_read(struct file *file, char __user *buffer, size_t size,
			    loff_t *unused)
{
	struct corsa_session *session = file->private_data;

	return corsa_events_read(&session->events, buffer, size,
				 file->f_flags & O_NONBLOCK);
}

static __poll_t session_poll(struct file *file, poll_table *table)
{
	struct corsa_session *session = file->private_data;

	return corsa_events_poll(&session->events, file, table);
}

static int session_release(struct inode *inode, struct file *file)
{
	corsa_session_close(file->private_data);
	return 0;
}

static const struct file_operations session_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = session_ioctl,
	.read = session_read,
	.poll = session_poll,
	.release = session_release,
};

static long version_request(struct corsa_version *version)
{
	if (version->reserved)
		return -EINVAL;
	version->major = CORSA_ABI_MAJOR;
	version->minor = CORSA_ABI_MINOR;
	version->features = CORSA_FEATURE_CRASH | CORSA_FEATURE_MEMORY |
			    (corsa_exit_supported() ? CORSA_FEATURE_EXIT : 0) |
			    (CORSA_BINDER_SUPPORTED ? CORSA_FEATURE_BINDER : 0);
	return 0;
}

static int may_attach(struct task_struct *leader)
{
	if (same_thread_group(current, leader))
		return -EDEADLK;
	if (leader->flags & PF_KTHREAD)
		return -EINVAL;
	return corsa_call(ptrace_may_access)(leader,
					     PTRACE_MODE_ATTACH_REALCREDS) ?
		       0 : -EPERM;
}

static long session_fd(struct corsa_session *session)
{
	int fd = anon_inode_getfd("[corsa]", &session_fops, session,
				  O_RDWR | O_CLOEXEC);

	if (fd < 0)
		corsa_session_close(session);
	return fd;
}

static long attach_request(struct corsa_attach *args)
{
	struct corsa_session *session;
	struct corsa_refusals refusals;
	struct task_struct *leader;
	unsigned int pidfd_flags;
	long ret;

	args->joined = 0;
	args->threads = 0;
	args->refusal_count = 0;
	if (args->flags & ~CORSA_ATTACH_F_ALL || args->reserved)
		return -EINVAL;
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	leader = corsa_call(pidfd_get_task)(args->pidfd, &pidfd_flags);
	if (IS_ERR(leader))
		return PTR_ERR(leader);
	ret = may_attach(leader);
	if (!ret)
		ret = begin_refusals(&refusals, args->refusal_cap);
	if (ret)
		goto put_task;
	session = corsa_session_attach(leader, args, &refusals);
	ret = IS_ERR(session) ? PTR_ERR(session) : session_fd(session);
	args->refusal_count = refusals.count;
	ret = end_refusals(&refusals, args->refusals, ret);
put_task:
	put_task_struct(leader);
	return ret;
}

static long device_ioctl(struct file *file, unsigned int request,
			 unsigned long address)
{
	void __user *user = (void __user *)address;
	size_t known = known_size(request);
	unsigned int number = _IOC_NR(request);
	union argument arg;
	long ret, stored;

	if (!known || number >= _IOC_NR(CORSA_IOC_CHECKPOINT))
		return -ENOTTY;
	ret = fetch(&arg, known, user);
	if (ret)
		return ret;
	ret = number == _IOC_NR(CORSA_IOC_VERSION) ?
		      version_request(&arg.version) :
		      attach_request(&arg.attach);
	stored = store(&arg, known, user);
	/* A session that the caller cannot write down is still in its table. */
	return ret ? ret : stored;
}

static int device_open(struct inode *inode, struct file *file)
{
	return capable(CAP_SYS_ADMIN) ? 0 : -EPERM;
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.open = device_open,
	.unlocked_ioctl = device_ioctl,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "corsa",
	.fops = &device_fops,
	.mode = 0600,
};

int corsa_chardev_init(void)
{
	return misc_register(&device);
}

void corsa_chardev_exit(void)
{
	misc_deregister(&device);
}
