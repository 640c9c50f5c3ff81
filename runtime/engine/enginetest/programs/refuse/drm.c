//: doc a graphics device
//: object DRM devices
//: optional
//: refuse /dev/dri/: the state of a GPU is outside
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	if (open("/dev/dri/card0", O_RDWR | O_CLOEXEC) < 0)
		svc_lack("/dev/dri/card0");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
