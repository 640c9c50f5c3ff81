//: doc a private directory of a service under a seccomp filter that kills it for the calls by which only an engine would enter it
//: object files of a private directory: under a seccomp filter
//: private own
//: engine kmod refused private directory: the same process
#include "svc.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

static int fd;
static volatile uint64_t *word;
static volatile char *page;

static uint64_t get(void)
{
	uint64_t n = 0;

	SVC_TRY(pread(fd, &n, sizeof(n), 0));
	return n;
}

static void mutate(uint64_t n)
{
	*word += n;
}

static const char *verify(void)
{
	char now[4096];

	if (!getcwd(now, sizeof(now)) || strcmp(strrchr(now, '/'), "/own"))
		return "it is in another directory";
	if (page[0] != 'p')
		return "the private mapping holds something else";
	return get() == *word ? NULL : "the file does not hold what the mapping does";
}

static void spoil(void)
{
	SVC_TRY(ftruncate(fd, 0));
	SVC_TRY(ftruncate(fd, 4096));
	page = "";
}

static void confine(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unshare, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_chdir, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_open, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };

	SVC_TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	SVC_TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	int other;

	SVC_TRY(chdir("own"));
	fd = SVC_TRY(open("counted", O_RDWR | O_CREAT, 0600));
	SVC_TRY(ftruncate(fd, 4096));
	word = SVC_TRY(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	other = SVC_TRY(open("mapped", O_RDWR | O_CREAT, 0600));
	SVC_TRY(write(other, "page", 4));
	page = SVC_TRY(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, other, 0));
	close(other);
	svc_ready_hook = confine;
	return svc_main(argc, argv, &ops);
}
