//: doc a threaded service under a seccomp filter that kills it for any call that it does not need
//: object seccomp filters
//: engine fork private: suspended while corsa's calls run
#include "svc.h"
#include "sum.h"
#include "workers.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

enum { MARK = 42 };

static int mark = MARK;

static const int allowed[] = {
	SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_recvfrom, SYS_sendto, SYS_close, SYS_accept4, SYS_epoll_wait,
	SYS_epoll_pwait, SYS_epoll_ctl, SYS_poll, SYS_futex, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_madvise, SYS_brk,
	SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_getpid, SYS_gettid, SYS_rt_sigreturn, SYS_rt_sigprocmask,
	SYS_restart_syscall, SYS_sched_yield, SYS_exit, SYS_exit_group,
};

/* confine installs the filter in all threads: getppid fails with MARK, which shows that the filter is in force. */
static void confine(void)
{
	struct sock_filter code[8 + 2 * (sizeof(allowed) / sizeof(allowed[0]))];
	struct sock_fprog prog = { .filter = code };
	int n = 0;

	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
		code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | MARK);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	prog.len = n;
	SVC_TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	SVC_TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog));
}

static const char *check(struct worker *w)
{
	errno = 0;
	return syscall(SYS_getppid) == -1 && errno == mark ? NULL : "the filter is not in force";
}

static const char *verify(void)
{
	return workers_and_main(check);
}

static void spoil(void)
{
	mark++;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };

	svc_ready_hook = confine;
	workers_start(4, NULL);
	return svc_main(argc, argv, &ops);
}
