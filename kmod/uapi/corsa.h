/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * corsa: private instances of one running process
 *
 * 1. What it does
 *
 * The module lets one running process, its pid, tids and kernel identity
 * unchanged, be any of several private copies of itself. A copy is a *record*:
 *
 *	an mm (copy on write), a table of descriptors, cwd/root/umask, signal
 *	actions, limits, and for each thread the registers, FPU/vector state, TLS
 *	bases, signal mask and stack, robust list, rseq area, syscall-restart
 *	state, name, nice value, timer slack and CPU affinity.
 *
 * Every record has an id, a __u32 that is never reused within a session.
 * Record 0 is the process as it was when it was attached. A record is either
 *
 *	an *image*	frozen; its memory never changes and it never runs, or
 *	an *instance*	may be made active; at most one is.
 *
 * The active instance is what the process currently is. All other records are
 * dormant: plain memory, no thread runs in them. No two records ever execute
 * user code at the same time.
 *
 * Shared by all records, because the kernel keeps it per process or per open
 * file: pid, tids, credentials, cgroup, seccomp, pending signals,
 * contents of files and of shared mappings, and the object behind a descriptor
 * that is not a regular file (socket, pipe, eventfd, epoll, timerfd). Give each
 * instance its own of the latter with CORSA_IOC_FDS. A regular file's offset is
 * private to each record (see CORSA_COPY_SHARED_OFFSETS).
 *
 * 2. Objects
 *
 * /dev/corsa (mode 0600, open needs CAP_SYS_ADMIN) takes CORSA_IOC_VERSION and
 * CORSA_IOC_ATTACH. ATTACH returns a *session* descriptor, which takes all
 * other requests. There is one session per process. Whoever holds the session
 * descriptor has power over the process; requests that read or change its state
 * (copy, restore, FDS, GETFD) check PTRACE_MODE_ATTACH_REALCREDS again.
 *
 * The last close() of the session descriptor detaches: the process goes on in
 * the active instance, or in the one that was active last, and all other
 * records are freed. With CORSA_ATTACH_PERSIST the session stays instead, with
 * all its records and unread events, and a later ATTACH of the same process
 * joins it (corsa_attach.joined). CORSA_IOC_PERSIST asks for that later. CORSA_IOC_DETACH ends either kind.
 *
 * When the process ends or executes another program the session is over: its
 * records are freed, poll() says EPOLLHUP after the last event has been read,
 * and requests fail with ESRCH.
 *
 * 3. Conventions
 *
 * Every structure begins with `size` = sizeof(struct) of the caller. A kernel
 * that knows a longer one fills the rest with zeroes; a kernel that knows a
 * shorter one answers E2BIG unless the surplus is zero. Bits outside the
 * matching _F_ALL, and anything but zero in a field named `reserved`, give
 * EINVAL. Pointers are passed as __u64. Times are nanoseconds.
 *
 * Errors that any session request may give:
 *	EINVAL	unknown bit, bad size, wrong kind of record for this request
 *	ENOENT	no record of that id
 *	ESRCH	the session is over
 *	EDEADLK	the caller is a thread of the process itself
 *	EINTR	a fatal signal ended the wait; see the request
 *	EPERM	the check above failed
 * Requests on one session are serialised by the module.
 *
 * 4. A minimal client
 *
 *	dev = open("/dev/corsa", O_RDWR | O_CLOEXEC);
 *	struct corsa_attach a = { .size = sizeof(a), .pidfd = pidfd };
 *	s = ioctl(dev, CORSA_IOC_ATTACH, &a);
 *	struct corsa_copy c = { .size = sizeof(c), .src = 0 };
 *	ioctl(s, CORSA_IOC_BRANCH, &c);			// c.id: a dormant copy
 *	struct corsa_activate v = { .size = sizeof(v), .id = c.id };
 *	ioctl(s, CORSA_IOC_ACTIVATE, &v);		// the process is now c.id
 *	v.id = 0; ioctl(s, CORSA_IOC_ACTIVATE, &v);	// and back
 *	close(s);					// detaches
 */
#ifndef _UAPI_CORSA_H
#define _UAPI_CORSA_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* A different major number means: do not talk to this module. */
#define CORSA_ABI_MAJOR 1
#define CORSA_ABI_MINOR 1

/* Not a record: "no instance" in corsa_activate.id and elsewhere. */
#define CORSA_NONE 0xffffffffU

/*
 * CORSA_IOC_VERSION (on /dev/corsa). Out: everything. `features` has one bit
 * for each optional ability that this kernel allows.
 */
#define CORSA_FEATURE_CRASH	(1ULL << 0) /* fatal signals are intercepted */
#define CORSA_FEATURE_EXIT	(1ULL << 1) /* exit() and exit_group() as well */
#define CORSA_FEATURE_MEMORY	(1ULL << 2) /* CORSA_IOC_MEMORY counts pages */
#define CORSA_FEATURE_BINDER	(1ULL << 3) /* built with the Binder gate */

struct corsa_version {
	__u32 size;
	__u32 reserved;
	__u32 major;
	__u32 minor;
	__u64 features;
};

/*
 * A refusal names one object that cannot be virtualised. Requests that can be
 * refused take an array of them; with errno EOPNOTSUPP, `refusal_count` says
 * how many there are, of which the first `refusal_cap` were stored. All are
 * found in one pass, not just the first.
 */
enum corsa_refusal_kind {
	CORSA_REFUSE_IO_URING = 1,	/* tid: thread that uses io_uring */
	CORSA_REFUSE_AIO,		/* io_setup() contexts exist */
	CORSA_REFUSE_USERFAULTFD,	/* addr: registered area */
	CORSA_REFUSE_MMU_NOTIFIER,	/* KVM, RDMA, ... watch the memory */
	CORSA_REFUSE_PI_FUTEX,		/* tid: thread that owns a PI futex */
	CORSA_REFUSE_SHARED_MM,		/* tid: other process in the same memory */
	CORSA_REFUSE_PTRACED,		/* tid: traced thread */
	CORSA_REFUSE_COMPAT,		/* tid: 32-bit thread */
	CORSA_REFUSE_UPROBE,		/* uprobes are set in the memory */
	CORSA_REFUSE_FILE_LOCK,		/* fd: POSIX record lock is held */
	CORSA_REFUSE_HUGETLB,		/* addr: private hugetlb mapping */
	CORSA_REFUSE_DEVICE_MAP,	/* addr: device mapping that has no copy */
	CORSA_REFUSE_SEM_UNDO,		/* tid: System V semaphore undo list */
	CORSA_REFUSE_TIMER,		/* POSIX timer or armed interval timer */
	CORSA_REFUSE_FILE_OPEN,		/* fd: cannot be opened anew; code: errno */
	CORSA_REFUSE_CREDS,		/* tid: changed its credentials since */
	CORSA_REFUSE_IOPORT,		/* tid: uses ioperm() or iopl() */
	CORSA_REFUSE_SHADOW_STACK,	/* tid: user shadow stack is on */
	CORSA_REFUSE_UNSHARED,		/* tid: own descriptors or cwd (unshare) */
	__CORSA_REFUSE_LAST
};
#define CORSA_REFUSE_MAX (__CORSA_REFUSE_LAST - 1)

struct corsa_refusal {
	__u32 kind;	/* enum corsa_refusal_kind */
	__s32 tid;	/* in the caller's pid namespace, or 0 */
	__s32 fd;	/* or -1 */
	__s32 code;	/* see the kind, or 0 */
	__u64 addr;	/* start of a mapping, or 0 */
};

/*
 * CORSA_IOC_ATTACH (on /dev/corsa): returns a session descriptor (O_CLOEXEC).
 * The process keeps running as record 0, which is active.
 * pidfd:   of the process (its thread-group leader).
 * joined:  out: 1 if an existing persistent session was joined. Flags other
 *          than PERSIST do not apply then; a session stays what it was.
 * threads: out: how many threads are under control.
 * Errors: EBUSY   it has a session that is not persistent
 *         EPERM   no ptrace permission, or no CAP_SYS_ADMIN
 *         ESRCH   it has ended; EBADF: not a pidfd
 *         EDEADLK it is the caller; EOPNOTSUPP: refused, see above
 */
#define CORSA_ATTACH_PERSIST	(1U << 0)
#define CORSA_ATTACH_F_ALL	(CORSA_ATTACH_PERSIST)

struct corsa_attach {
	__u32 size;
	__u32 flags;
	__s32 pidfd;
	__u32 joined;
	__u32 threads;
	__u32 refusal_cap;
	__u64 refusals;		/* struct corsa_refusal[refusal_cap] */
	__u32 refusal_count;
	__u32 reserved;
};

/*
 * CORSA_IOC_CHECKPOINT: make an image of record `src`.
 * CORSA_IOC_BRANCH: make a dormant instance of record `src`.
 * Any record can be the source: a dormant one is copied as it lies; when it is
 * the active one all threads are stopped on their way to user mode, the memory
 * is duplicated copy on write as fork() does, and they go on. The service sees
 * no signal and no EINTR from it.
 *
 * Unlike fork(), areas marked MADV_DONTFORK and MADV_WIPEONFORK are kept, as a
 * copy is the same program continued. CORSA_COPY_WIPE leaves MADV_WIPEONFORK
 * areas zeroed in the copy: for programs that keep secrets or random-number
 * state there and must not use them twice.
 *
 * Every regular file gets an open file description of its own in the copy
 * (flags and offset as in the source; descriptors that were dup()s of each
 * other stay so), unless CORSA_COPY_SHARED_OFFSETS. One that holds a flock()
 * or open-file-description lock stays shared, so that the lock stays held.
 *
 * cookie:  the caller's, kept with the record and returned by CORSA_IOC_LIST.
 * id:      out.
 * ns_stop: out: until all threads stood still (0 for a dormant source).
 * ns_dup:  out: duplicating the memory. ns_total: out: the whole request.
 *
 * Nothing has changed if it fails. Errors: EBUSY a thread did not stop within
 * five seconds (it sleeps uninterruptibly); ENOMEM; ENOSPC too many records;
 * EOPNOTSUPP refused; EINVAL the source has crashed.
 */
#define CORSA_COPY_WIPE			(1U << 0)
#define CORSA_COPY_SHARED_OFFSETS	(1U << 1)
#define CORSA_COPY_F_ALL	(CORSA_COPY_WIPE | CORSA_COPY_SHARED_OFFSETS)

struct corsa_copy {
	__u32 size;
	__u32 flags;
	__u32 src;
	__u32 id;
	__u64 cookie;
	__u64 ns_stop;
	__u64 ns_dup;
	__u64 ns_total;
	__u64 refusals;		/* struct corsa_refusal[refusal_cap] */
	__u32 refusal_cap;
	__u32 refusal_count;
};

/*
 * CORSA_IOC_RESTORE: the state of instance `instance` becomes that of record
 * `image` (usually an image, any other record but itself will do). The id and
 * the cookie stay, `crashed` is cleared, and so is its place as the active
 * instance if it is that: the process then goes on from the image. `image` is
 * not changed. On any error nothing has changed. Errors as for BRANCH.
 * flags: as corsa_copy.flags.
 */
struct corsa_restore {
	__u32 size;
	__u32 flags;
	__u32 image;
	__u32 instance;
	__u64 ns_total;
	__u64 refusals;
	__u32 refusal_cap;
	__u32 refusal_count;
};

/*
 * CORSA_IOC_ACTIVATE: make instance `id` active, or none (CORSA_NONE: park).
 *
 * Parked threads wait inside the kernel, killable, and execute nothing; real
 * signals wait until they run again. A thread that `id` does not have (it was
 * created later, or exited there) stays parked. It is no error to activate
 * what is active already.
 *
 * When the request returns 0, no thread can execute user code of any other
 * record, with every combination of flags.
 *
 * Default: waits until every thread has become `id`, or is parked. No system
 *   call of the former instance is in progress any more.
 * LAZY: waits only for what could be executing user code, and for system calls
 *   of the former instance that might take what all records share: pending
 *   signals, children, Binder's work. Threads in other calls are dealt with by
 *   what the call does when it is woken:
 *     to take what comes (read, recv, accept, ...): it is called, but not waited
 *     for: for a moment it may still take it, for the former instance;
 *     only to look (poll, select, epoll_wait, futex, sleeping): if the thread
 *     had nothing to do when `id` was active last, it is left asleep in the
 *     former instance, until there is idle time, and 10 ms at most. Until then
 *     it does not notice what comes for `id`. Something may wake it where it
 *     is: then it becomes `id`, and the call returns what it saw when the former
 *     is active again.
 *   None of them can return to user mode in the former instance. So use LAZY
 *   where the objects that an instance waits for are its own. If two share an
 *   epoll set that is edge-triggered, or a futex in shared memory, such a thread
 *   can swallow a wake-up that was meant for the other.
 * HOLD: threads become `id` but stay parked, so that /proc/PID (maps, fd, mem)
 *   shows that record. ACTIVATE without HOLD lets them run. Not with NONE.
 * BOUNDARY: with NONE or another id: only at a transaction boundary of the
 *   running instance: every thread was asleep in an interruptible system call.
 *   If that is not so within timeout_ns the instance runs on undisturbed and
 *   the request fails with EBUSY. timeout_ns 0: one attempt. With LAZY as well
 *   threads that only look are left asleep where they are: what wakes one of
 *   them finds it parked, once. All others have left their calls before anything
 *   else is active, so that what comes for a dormant instance is still there,
 *   untaken, when it runs again, for whoever watches by another descriptor too.
 *   With `id`, that one is then activated as with LAZY alone.
 *
 * timeout_ns without BOUNDARY: how long to wait, 0: five seconds. On EBUSY
 *   (a thread sleeps uninterruptibly) without BOUNDARY, and on EINTR, the
 *   former state of affairs has been restored.
 * ns: out: duration of the request.
 * Errors: EINVAL `id` is an image or has crashed; EBUSY; EOPNOTSUPP the
 *   process has changed its credentials since `id` was copied, or uses a
 *   facility that ties it to the former instance (PI futex, io_uring).
 */
#define CORSA_ACTIVATE_LAZY	(1U << 0)
#define CORSA_ACTIVATE_HOLD	(1U << 1)
#define CORSA_ACTIVATE_BOUNDARY	(1U << 2)
#define CORSA_ACTIVATE_F_ALL	(CORSA_ACTIVATE_LAZY | CORSA_ACTIVATE_HOLD | \
				 CORSA_ACTIVATE_BOUNDARY)

struct corsa_activate {
	__u32 size;
	__u32 flags;
	__u32 id;
	__u32 reserved;
	__u64 timeout_ns;
	__u64 ns;
};

/*
 * CORSA_IOC_DISCARD: free a record. Threads that live in no other record end.
 * Errors: EBUSY it is active, or it is the crash policy's standby.
 * `reserved` must be 0.
 */
struct corsa_discard {
	__u32 size;
	__u32 id;
	__u64 reserved;
};

/*
 * CORSA_IOC_LIST: all records in order of id. `count` out: how many there are,
 * of which the first `cap` were stored. `active`: the active instance or NONE;
 * `last`: the one that was active last. `held`: 1 if under HOLD.
 */
#define CORSA_RECORD_IMAGE	(1U << 0)
#define CORSA_RECORD_ACTIVE	(1U << 1)
#define CORSA_RECORD_CRASHED	(1U << 2) /* cannot run; restore or discard it */
#define CORSA_RECORD_BROKEN	(1U << 3) /* lost a thread; as CRASHED */
#define CORSA_RECORD_STANDBY	(1U << 4) /* named by the crash policy */

struct corsa_record_info {
	__u32 id;
	__u32 parent;		/* copied or restored from, or CORSA_NONE */
	__u32 flags;
	__u32 threads;
	__u64 cookie;
	__u64 born_ns;		/* CLOCK_MONOTONIC */
	__s32 signo;		/* of a crash; 0: exit_group() */
	__s32 code;		/* of a crash: si_code, or the exit code */
};

struct corsa_list {
	__u32 size;
	__u32 cap;
	__u64 records;		/* struct corsa_record_info[cap] */
	__u32 count;
	__u32 active;
	__u32 last;
	__u32 held;
};

/*
 * CORSA_IOC_FDS: edit the descriptor table of a dormant record (instance or
 * image). Operations run in order; `done` out: how many succeeded. The first
 * failure ends the request with its error; those before it stay done.
 *
 * INSTALL	the caller's descriptor `src` becomes `fd` in the record; what was
 *		there is closed. SCM_RIGHTS semantics: the open file is shared.
 * CLOSE	close `fd`. EBADF if it is not open.
 * EPOLL_NEW	a new, empty epoll instance becomes `fd`.
 * EPOLL_ADD	add `fd` of the record to its epoll instance `src`, with `events`
 *		and `data` as epoll_ctl() takes them.
 * EPOLL_DEL	remove `fd` from `src`.
 * DUP		`src` of the record becomes `fd` in it as well.
 *
 * flags: CORSA_FD_CLOEXEC sets close-on-exec on `fd` (INSTALL, EPOLL_NEW, DUP).
 * Errors: EBUSY the record is active or a thread is still leaving it; and what
 * dup2(), close() and epoll_ctl() give.
 */
enum corsa_fd_op_kind {
	CORSA_FD_INSTALL = 1,
	CORSA_FD_CLOSE,
	CORSA_FD_EPOLL_NEW,
	CORSA_FD_EPOLL_ADD,
	CORSA_FD_EPOLL_DEL,
	CORSA_FD_DUP,
	__CORSA_FD_LAST
};
#define CORSA_FD_MAX (__CORSA_FD_LAST - 1)

#define CORSA_FD_CLOEXEC	(1U << 0)
#define CORSA_FD_F_ALL		(CORSA_FD_CLOEXEC)

struct corsa_fd_op {
	__u32 op;		/* enum corsa_fd_op_kind */
	__u32 flags;
	__s32 fd;
	__s32 src;
	__u32 events;
	__u32 reserved;
	__u64 data;
};

/* The most operations that one request may carry. */
#define CORSA_FDS_MAX 4096

struct corsa_fds {
	__u32 size;
	__u32 id;
	__u64 ops;		/* const struct corsa_fd_op[count] */
	__u32 count;
	__u32 done;
};

/*
 * CORSA_IOC_GETFD: returns a new descriptor of the caller (O_CLOEXEC) for what
 * `fd` is in record `id`, active or not. Errors: EBADF.
 */
struct corsa_getfd {
	__u32 size;
	__u32 id;
	__s32 fd;
	__u32 reserved;
};

/*
 * CORSA_IOC_CRASH: what happens when the active instance would die by SIGSEGV,
 * SIGABRT, SIGBUS, SIGILL or SIGFPE that it raised itself and does not handle,
 * or by exit_group().
 *
 * PASS		nothing: the process dies as it would without the module.
 * PARK		(at ATTACH) the instance is marked crashed, no instance is active,
 *		all threads are parked. The caller is told by an event.
 * STANDBY	as PARK, but instance `standby` becomes active at once. A standby
 *		is used once: then the policy is PARK until it is set again. If
 *		`limit` crashes happened within `window_ms` it is left alone and
 *		the policy acts as PARK. limit 0: no limit.
 *
 * SIGKILL, the OOM killer, and signals from other processes kill as ever.
 * Errors: EINVAL `standby` is an image, has crashed or is active.
 */
enum corsa_crash_policy {
	CORSA_CRASH_PASS = 0,
	CORSA_CRASH_PARK,
	CORSA_CRASH_STANDBY,
	__CORSA_CRASH_LAST
};
#define CORSA_CRASH_MAX (__CORSA_CRASH_LAST - 1)

struct corsa_crash {
	__u32 size;
	__u32 policy;		/* enum corsa_crash_policy */
	__u32 standby;		/* CORSA_NONE unless STANDBY */
	__u32 limit;
	__u32 window_ms;
	__u32 reserved;
};

/*
 * Events: read() on the session descriptor returns as many whole struct
 * corsa_event as fit and exist, oldest first. It blocks unless O_NONBLOCK
 * (EAGAIN); 0 means that the session is over and all events have been read.
 * EINVAL: buffer smaller than one. poll() says EPOLLIN when there is one.
 * Up to CORSA_EVENTS_KEPT are kept; later ones are counted, and LOST is put in
 * their place.
 */
#define CORSA_EVENTS_KEPT 256

enum corsa_event_type {
	CORSA_EVENT_CRASHED = 1, /* id crashed: tid signo code addr; next */
	CORSA_EVENT_EXITED,	 /* the process has ended; the session is over */
	CORSA_EVENT_EXEC,	 /* it executes another program; session over */
	CORSA_EVENT_THREAD_NEW,	 /* thread tid was created in id */
	CORSA_EVENT_THREAD_EXIT, /* thread tid called exit() in id */
	CORSA_EVENT_LOST,	 /* code: how many events were dropped */
	CORSA_EVENT_DETACHED,	 /* by CORSA_IOC_DETACH; the session is over */
	CORSA_EVENT_BINDER_WANTED, /* see "Binder gate"; addr: key, id, tid */
	CORSA_EVENT_BINDER_DUE,	 /* as well; addr: key, id, code: how many */
	__CORSA_EVENT_LAST
};
#define CORSA_EVENT_MAX (__CORSA_EVENT_LAST - 1)

struct corsa_event {
	__u32 type;		/* enum corsa_event_type */
	__u32 id;		/* record, or CORSA_NONE */
	__u32 next;		/* instance that is active now, or CORSA_NONE */
	__s32 tid;		/* in the init pid namespace */
	__s32 signo;		/* 0: exit_group() */
	__s32 code;		/* si_code, or exit code */
	__u64 addr;		/* of the fault */
	__u64 ns;		/* CLOCK_MONOTONIC */
};

/*
 * CORSA_IOC_STATS: counters since ATTACH, and histograms: bucket n counts
 * durations d with 2^n <= d < 2^(n+1) ns, the last one everything above.
 */
#define CORSA_HIST_BUCKETS 40

enum corsa_hist_kind {
	CORSA_HIST_SWAP = 0,	/* one thread's whole change of record */
	CORSA_HIST_SWAP_MM,	/* of it the mm */
	CORSA_HIST_STOP,	/* copy of the active record: stopping threads */
	CORSA_HIST_DUP,		/* duplicating memory */
	CORSA_HIST_ACTIVATE,	/* CORSA_IOC_ACTIVATE as a whole */
	__CORSA_HIST_LAST
};
#define CORSA_HIST_COUNT __CORSA_HIST_LAST

struct corsa_stats {
	__u32 size;
	__u32 reserved;
	__u32 records;		/* now */
	__u32 threads;		/* now */
	__u64 copies;
	__u64 activations;
	__u64 swaps;		/* of single threads */
	__u64 restores;
	__u64 discards;
	__u64 crashes;
	__u64 eintr_hidden;	/* EINTRs that the service was spared */
	__u64 timeouts;
	__u64 threads_held;	/* exit() calls held for other records' sake */
	__u64 sum_ns[CORSA_HIST_COUNT];
	__u64 hist[CORSA_HIST_COUNT][CORSA_HIST_BUCKETS];
};

/*
 * CORSA_IOC_SAMPLES: raw durations, for measurements. The first call with
 * CORSA_SAMPLES_ON begins to record up to CORSA_SAMPLES_KEPT of kind `which`;
 * later calls store up to `cap` of them and forget all. count: out: stored.
 */
#define CORSA_SAMPLES_ON	(1U << 0)
#define CORSA_SAMPLES_F_ALL	(CORSA_SAMPLES_ON)
#define CORSA_SAMPLES_KEPT	65536

struct corsa_samples {
	__u32 size;
	__u32 flags;
	__u32 which;		/* enum corsa_hist_kind */
	__u32 cap;
	__u64 ns;		/* __u32[cap] */
	__u32 count;
	__u32 reserved;
};

/*
 * CORSA_IOC_MEMORY: bytes. Walks the page tables: O(resident).
 * unique: mapped by this record alone: what discarding it would free.
 */
struct corsa_memory {
	__u32 size;
	__u32 id;
	__u64 resident;
	__u64 unique;
	__u64 swapped;
	__u64 page_tables;
};

/*
 * CORSA_IOC_DETACH: end the session whatever descriptors are open. The process
 * goes on in the active instance, else in the one that was active last, else
 * in the instance with the lowest id. If there is none that can run (all have
 * crashed) the process is killed. `reserved` must be 0.
 */
struct corsa_detach {
	__u32 size;
	__u32 reserved;
};

/*
 * CORSA_IOC_PERSIST: from now on the session is as one attached with
 * CORSA_ATTACH_PERSIST. Whoever prepares a session before others depend on it
 * attaches without, so that the process is let go if he dies, and asks for
 * persistence when he is done. `reserved` must be 0.
 */
struct corsa_persist {
	__u32 size;
	__u32 reserved;
};

/*
 * 5. Binder gate
 *
 * CORSA_IOC_BINDER_ENABLE puts the module between the process and those that
 * call it through Binder. Its Binder mappings are no obstacle to a copy then:
 * every record has the same buffers at the same addresses, read only as ever.
 *
 * A call that comes from outside is held in its sender, before the driver
 * queues it, until the instance that it is for is active. Which one that is
 * follows from the object that is called: if an instance has created it, then
 * that instance; else from the route of the caller's key. A key is what names
 * an app: the effective uid of the caller, its pid or its cgroup.
 *
 * One instance at a time has transactions in progress. Those for others wait
 * in the order in which they came. A transaction is in progress until
 *
 *	a call		has been replied to, and the thread that did has read
 *			what the driver had to tell it about that;
 *	a oneway call	until its buffer has been freed (BC_FREE_BUFFER);
 *	a call that the process makes itself: until the reply has been read.
 *
 * Calls back into the process from within a call that it makes (nested calls,
 * callbacks) are part of it and never wait.
 *
 * None waits longer than wait_ns: the caller gets BR_FAILED_REPLY then, and the
 * transaction leaves no trace. Fatal signals end the wait as well.
 *
 * If a key has no route, or its record cannot run, the first of its
 * transactions gives CORSA_EVENT_BINDER_WANTED (id: the record or CORSA_NONE;
 * tid: the caller) and all wait for CORSA_IOC_BINDER_ROUTE or, after a crash,
 * for CORSA_IOC_RESTORE of the record.
 *
 * When an instance crashes, the calls in progress in it fail: their callers
 * get BR_FAILED_REPLY or BR_DEAD_REPLY, and no transaction is left over.
 *
 * A request that copies or replaces the active instance, and every
 * CORSA_IOC_ACTIVATE, waits until no transaction is in progress, behind those
 * that waited before it, for at most wait_ns (EBUSY), and holds up those that
 * come after. So a copy of the active instance is made between transactions.
 * The gate activates instances by itself. It stays closed under HOLD.
 */

/*
 * CORSA_IOC_BINDER_ENABLE: once for a session, before the first copy. The
 * process must have opened and mapped its Binder devices, have no transaction
 * in progress, and have all the Binder threads that it will ever need.
 * key:     what names an app.
 * wait_ns: the longest that a transaction waits. 0: five seconds.
 * devices: out: how many Binder mappings were found.
 * hook:    out: how the gate gets between.
 * Errors: EOPNOTSUPP built without the gate; ENODEV no Binder driver, or no
 * mapping of it; EALREADY; EBUSY copies exist; ENOSYS the driver is not as the
 * one that the module was built for: the kernel's log says what is missing.
 */
enum corsa_binder_key {
	CORSA_BINDER_EUID = 1,	/* in the init user namespace */
	CORSA_BINDER_PID,	/* of the process, in the init pid namespace */
	CORSA_BINDER_CGROUP,	/* id in the cgroup v2 hierarchy */
	__CORSA_BINDER_KEY_LAST
};
#define CORSA_BINDER_KEY_MAX (__CORSA_BINDER_KEY_LAST - 1)

enum corsa_binder_hook {
	CORSA_BINDER_KPROBE = 1, /* an unchanged driver, by a kprobe */
	CORSA_BINDER_DRIVER,	/* by the driver's own binder_set_gate() */
};

/*
 * ORIGIN: where one app calls another that calls the process, the app is the
 * first of them, not the last. For keys of kind EUID.
 */
#define CORSA_BINDER_ORIGIN	(1U << 0)
#define CORSA_BINDER_F_ALL	(CORSA_BINDER_ORIGIN)

struct corsa_binder_enable {
	__u32 size;
	__u32 flags;
	__u32 key;		/* enum corsa_binder_key */
	__u32 devices;
	__u64 wait_ns;
	__u32 hook;		/* enum corsa_binder_hook */
	__u32 reserved;
};

/*
 * CORSA_IOC_BINDER_ROUTE: transactions of `key` go to instance `id` from now
 * on, or nowhere (CORSA_NONE: who waits for it fails; the next one gives
 * CORSA_EVENT_BINDER_WANTED again. A pid that nobody waits for is forgotten).
 * every: after so many transactions give CORSA_EVENT_BINDER_DUE, again and
 *        again; 0: never. The count begins anew with each ROUTE.
 * PAUSE: when it is due, further transactions wait until the next ROUTE.
 * Errors: EINVAL `id` is an image; ENXIO the gate is not enabled; ENOSPC too
 * many keys.
 */
#define CORSA_ROUTE_PAUSE	(1U << 0)
#define CORSA_ROUTE_F_ALL	(CORSA_ROUTE_PAUSE)

#define CORSA_ROUTES_MAX 4096

struct corsa_binder_route {
	__u32 size;
	__u32 flags;
	__u64 key;
	__u32 id;
	__u32 every;
};

/*
 * CORSA_IOC_BINDER_ROUTES: all keys that have a route or want one, in no
 * order. `count` out: how many there are, of which `cap` were stored.
 */
#define CORSA_ROUTE_WANTED	(1U << 16) /* a transaction waits for it */
#define CORSA_ROUTE_DUE		(1U << 17)

struct corsa_binder_route_info {
	__u64 key;
	__u32 id;
	__u32 flags;
	__u32 every;
	__u32 since;		/* transactions since ROUTE or the last DUE */
	__u64 transactions;	/* oneway included; not those that a crash ended */
	__u64 oneway;
};

struct corsa_binder_routes {
	__u32 size;
	__u32 cap;
	__u64 routes;		/* struct corsa_binder_route_info[cap] */
	__u32 count;
	__u32 reserved;
};

/* CORSA_IOC_BINDER_STATS: counters since CORSA_IOC_BINDER_ENABLE. */
struct corsa_binder_stats {
	__u32 size;
	__u32 in_progress;	/* now */
	__u32 waiting;		/* now */
	__u32 tickets;		/* memory for so many at once is kept */
	__u64 transactions;	/* that came in, without nested ones */
	__u64 oneway;		/* of them */
	__u64 nested;
	__u64 outgoing;
	__u64 waits;		/* transactions that did not go on at once */
	__u64 switches;		/* of instances, for a transaction */
	__u64 timeouts;		/* transactions that failed for that */
	__u64 interrupted;	/* their senders were killed */
	__u64 aborted;		/* ended by a crash */
	__u64 buffer_faults;	/* pages of buffers mapped into instances */
	__u64 wait_ns;		/* sum */
	__u64 longest_wait_ns;
};

#define CORSA_IOC_MAGIC 0xC5
#define CORSA_IOC_VERSION	_IOWR(CORSA_IOC_MAGIC, 0x00, struct corsa_version)
#define CORSA_IOC_ATTACH	_IOWR(CORSA_IOC_MAGIC, 0x01, struct corsa_attach)
#define CORSA_IOC_CHECKPOINT	_IOWR(CORSA_IOC_MAGIC, 0x10, struct corsa_copy)
#define CORSA_IOC_BRANCH	_IOWR(CORSA_IOC_MAGIC, 0x11, struct corsa_copy)
#define CORSA_IOC_RESTORE	_IOWR(CORSA_IOC_MAGIC, 0x12, struct corsa_restore)
#define CORSA_IOC_ACTIVATE	_IOWR(CORSA_IOC_MAGIC, 0x13, struct corsa_activate)
#define CORSA_IOC_DISCARD	_IOWR(CORSA_IOC_MAGIC, 0x14, struct corsa_discard)
#define CORSA_IOC_LIST		_IOWR(CORSA_IOC_MAGIC, 0x15, struct corsa_list)
#define CORSA_IOC_FDS		_IOWR(CORSA_IOC_MAGIC, 0x16, struct corsa_fds)
#define CORSA_IOC_GETFD		_IOWR(CORSA_IOC_MAGIC, 0x17, struct corsa_getfd)
#define CORSA_IOC_CRASH		_IOWR(CORSA_IOC_MAGIC, 0x18, struct corsa_crash)
#define CORSA_IOC_STATS		_IOWR(CORSA_IOC_MAGIC, 0x19, struct corsa_stats)
#define CORSA_IOC_SAMPLES	_IOWR(CORSA_IOC_MAGIC, 0x1a, struct corsa_samples)
#define CORSA_IOC_MEMORY	_IOWR(CORSA_IOC_MAGIC, 0x1b, struct corsa_memory)
#define CORSA_IOC_DETACH	_IOWR(CORSA_IOC_MAGIC, 0x1c, struct corsa_detach)
#define CORSA_IOC_PERSIST	_IOWR(CORSA_IOC_MAGIC, 0x1d, struct corsa_persist)
#define CORSA_IOC_BINDER_ENABLE	_IOWR(CORSA_IOC_MAGIC, 0x20, struct corsa_binder_enable)
#define CORSA_IOC_BINDER_ROUTE	_IOWR(CORSA_IOC_MAGIC, 0x21, struct corsa_binder_route)
#define CORSA_IOC_BINDER_ROUTES	_IOWR(CORSA_IOC_MAGIC, 0x22, struct corsa_binder_routes)
#define CORSA_IOC_BINDER_STATS	_IOWR(CORSA_IOC_MAGIC, 0x23, struct corsa_binder_stats)

#endif /* _UAPI_CORSA_H */
