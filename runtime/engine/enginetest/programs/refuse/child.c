//: doc a child process
//: object child processes
//: refuse child: one process is copied
#include "svc.h"
#include "plain.h"
#include <sys/prctl.h>

static void hold(void)
{
	if (SVC_TRY(fork()) == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
