//: doc an inotify watch
//: refuse inotify
#include "svc.h"
#include "plain.h"
#include <sys/inotify.h>

static void hold(void)
{
	int fd = SVC_TRY(inotify_init1(IN_CLOEXEC));

	SVC_TRY(inotify_add_watch(fd, ".", IN_CREATE));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
