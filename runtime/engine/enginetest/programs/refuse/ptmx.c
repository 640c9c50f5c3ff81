//: doc the master of a terminal
//: object terminal masters
//: refuse /dev/: it is the master of a terminal
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	if (posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC) < 0)
		svc_lack("posix_openpt");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
