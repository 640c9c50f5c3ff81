//: doc a fanotify group
//: object fanotify
//: refuse fanotify: cannot be read from outside
#include "svc.h"
#include "plain.h"
#include <sys/fanotify.h>

static void hold(void)
{
	if (fanotify_init(FAN_CLASS_NOTIF, O_RDONLY) < 0)
		svc_lack("fanotify");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
