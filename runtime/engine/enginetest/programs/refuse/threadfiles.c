//: doc a thread with descriptors of its own
//: object threads with their own descriptor table
//: refuse thread: table of open files
#include "svc.h"
#include "plain.h"
#include "own.h"
#include <sched.h>

static void work(void)
{
	SVC_TRY(unshare(CLONE_FILES));
}

static void hold(void)
{
	own_thread(work);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
