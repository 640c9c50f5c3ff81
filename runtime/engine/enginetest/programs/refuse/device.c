//: doc a device with a state of its own
//: object other devices
//: refuse /dev/kmsg: the state of a device is outside
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	if (open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC) < 0)
		svc_lack("/dev/kmsg");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
