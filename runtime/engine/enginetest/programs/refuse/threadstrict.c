//: doc a thread in strict seccomp mode
//: object threads with their own seccomp mode
//: refuse thread: seccomp filter of its own
#include "svc.h"
#include "plain.h"
#include "own.h"
#include <linux/seccomp.h>
#include <sys/prctl.h>

static void work(void)
{
	SVC_TRY(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
}

static void hold(void)
{
	own_thread(work);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
