//: doc a child that has ended and was not waited for
//: object child processes
//: refuse child: has not waited for it yet
#include "svc.h"
#include "plain.h"
#include <sys/wait.h>

static void hold(void)
{
	siginfo_t info;
	pid_t child = SVC_TRY(fork());

	if (!child)
		_exit(0);
	SVC_TRY(waitid(P_PID, child, &info, WEXITED | WNOWAIT));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
