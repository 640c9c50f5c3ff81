//: doc an inotify event that waits to be read
//: object inotify: events that wait
//: refuse inotify: events wait in it
//: engine kmod refused inotify: watches and queued events
#include "svc.h"
#include "plain.h"
#include <sys/inotify.h>

static void hold(void)
{
	int fd = SVC_TRY(inotify_init1(IN_CLOEXEC)), wd;

	wd = SVC_TRY(inotify_add_watch(fd, ".", IN_CREATE));
	SVC_TRY(inotify_rm_watch(fd, wd));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
