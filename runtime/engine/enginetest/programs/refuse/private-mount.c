//: doc something that is mounted in a private directory
//: object private directories with mounts in them
//: private own
//: refuse private directory: something is mounted in it
//: engine kmod refused private directory: the same process
#include "svc.h"
#include "plain.h"
#include <sched.h>
#include <sys/mount.h>

static void hold(void)
{
	SVC_TRY(unshare(CLONE_NEWNS));
	SVC_TRY(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	SVC_TRY(mkdir("own/there", 0700));
	SVC_TRY(mount("none", "own/there", "tmpfs", 0, NULL));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
