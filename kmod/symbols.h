/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions of the kernel that modules cannot link to.
 *
 * Each is looked up once at load. Calls go through static_call(): the call
 * sites are patched to direct calls, so they work where indirect calls do not
 * (IBT: the entry of a function whose address nobody takes has been sealed).
 */
#ifndef CORSA_SYMBOLS_H
#define CORSA_SYMBOLS_H

#include <linux/fs_struct.h>
#include <linux/pagewalk.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/static_call.h>

struct fd_range;
struct epoll_event;
struct file;
struct fpu;

/* X(return type, name, parameters...) */
#define CORSA_REQUIRED_SYMBOLS(X)                                              \
	X(pid_t, kernel_clone, struct kernel_clone_args *)                     \
	X(void, do_exit, long)                                                 \
	X(void, do_group_exit, int)                                            \
	X(void, switch_mm_irqs_off, struct mm_struct *, struct mm_struct *,    \
	  struct task_struct *)                                                \
	X(struct files_struct *, dup_fd, struct files_struct *,                \
	  struct fd_range *)                                                   \
	X(void, put_files_struct, struct files_struct *)                       \
	X(struct fs_struct *, copy_fs_struct, struct fs_struct *)              \
	X(void, free_fs_struct, struct fs_struct *)                            \
	X(void, save_fpregs_to_fpstate, struct fpu *)                          \
	X(void, set_current_blocked, sigset_t *)                               \
	X(long, sched_setaffinity, pid_t, const struct cpumask *)              \
	X(struct sighand_struct *, __lock_task_sighand, struct task_struct *,  \
	  unsigned long *)                                                     \
	X(int, wake_up_state, struct task_struct *, unsigned int)              \
	X(bool, ptrace_may_access, struct task_struct *, unsigned int)         \
	X(struct task_struct *, pidfd_get_task, int, unsigned int *)           \
	X(void, membarrier_update_current_mm, struct mm_struct *)              \
	X(void, exec_mm_release, struct task_struct *, struct mm_struct *)     \
	X(int, replace_fd, unsigned int, struct file *, unsigned int)          \
	X(int, do_epoll_ctl, int, int, int, struct epoll_event *, bool)        \
	X(long, __x64_sys_epoll_create1, const struct pt_regs *)               \
	X(int, walk_page_range, struct mm_struct *, unsigned long,             \
	  unsigned long, const struct mm_walk_ops *, void *)                   \
	X(void, syscall_exit_to_user_mode, struct pt_regs *)                   \
	X(void, swapgs_restore_regs_and_return_to_usermode, void)

/* Absent where the kernel has no such thing to do; ask corsa_has() first. */
#define CORSA_OPTIONAL_SYMBOLS(X)                                              \
	X(void, sync_mm_rss, struct mm_struct *)                               \
	X(void, sched_mm_cid_before_execve, struct task_struct *)              \
	X(void, sched_mm_cid_after_execve, struct task_struct *)

#define CORSA_DECLARE_SYMBOL(ret, name, ...)                                   \
	ret corsa_proto_##name(__VA_ARGS__);                                   \
	DECLARE_STATIC_CALL(corsa_##name, corsa_proto_##name);
CORSA_REQUIRED_SYMBOLS(CORSA_DECLARE_SYMBOL)
CORSA_OPTIONAL_SYMBOLS(CORSA_DECLARE_SYMBOL)

#define corsa_call(name) static_call(corsa_##name)

#define CORSA_SYMBOL_BIT(ret, name, ...) CORSA_HAS_##name,
enum { CORSA_OPTIONAL_SYMBOLS(CORSA_SYMBOL_BIT) CORSA_HAS_COUNT };
extern bool corsa_symbol_present[];

#define corsa_has(name) corsa_symbol_present[CORSA_HAS_##name]

int corsa_symbols_init(void);
/* The address of any symbol of the kernel or a module, or 0. */
unsigned long corsa_symbols_find(const char *name);

#endif
