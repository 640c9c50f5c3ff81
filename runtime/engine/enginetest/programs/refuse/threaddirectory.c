//: doc a thread with a working directory of its own
//: object threads with their own working directory
//: refuse thread: working directory and umask
#include "svc.h"
#include "plain.h"
#include "own.h"
#include <sched.h>

static void work(void)
{
	SVC_TRY(unshare(CLONE_FS));
}

static void hold(void)
{
	own_thread(work);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
