//: doc a thread with user ids of its own
//: object threads with their own credentials
//: refuse thread: user ids or capabilities
#include "svc.h"
#include "plain.h"
#include "own.h"

static void work(void)
{
	SVC_TRY(syscall(SYS_setresuid, 65534, 65534, 65534));
}

static void hold(void)
{
	own_thread(work);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
