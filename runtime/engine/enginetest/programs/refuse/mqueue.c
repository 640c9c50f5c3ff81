//: doc a POSIX message queue
//: object POSIX message queues
//: refuse message queue: common to all instances
#include "svc.h"
#include "plain.h"
#include <mqueue.h>

static void hold(void)
{
	char name[64];

	snprintf(name, sizeof(name), "/corsa-%d", getpid());
	if (mq_open(name, O_RDWR | O_CREAT, 0600, NULL) == -1)
		svc_lack("mq_open");
	mq_unlink(name);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
