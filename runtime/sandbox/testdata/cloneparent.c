// Makes siblings of itself, as the fork engine does, and reports whether pid 1 reaps them.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
	for (int i = 0; i < 20; i++) {
		long pid = syscall(SYS_clone, CLONE_PARENT, 0, 0, 0, 0);
		if (pid < 0) {
			perror("clone");
			return 1;
		}
		if (pid == 0)
			_exit(i);
		int tries = 0;
		while (kill(pid, 0) == 0 && tries++ < 20000)
			usleep(1000);
		if (tries > 20000) {
			printf("child %d was not reaped\n", i);
			return 1;
		}
	}
	puts("all reaped");
	return 0;
}
