//: doc a pidfd of another process
//: object pidfd
//: refuse pidfd of process: it names a process outside
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	if (syscall(SYS_pidfd_open, getppid(), 0) < 0)
		svc_lack("pidfd_open");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
