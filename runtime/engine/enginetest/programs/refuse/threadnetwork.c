//: doc a thread in a network namespace of its own
//: object threads in their own namespaces
//: refuse thread: net namespace
#include "svc.h"
#include "plain.h"
#include "own.h"
#include <sched.h>

static void work(void)
{
	SVC_TRY(unshare(CLONE_NEWNET));
}

static void hold(void)
{
	own_thread(work);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
