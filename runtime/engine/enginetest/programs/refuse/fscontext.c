//: doc a mount under construction
//: object objects that corsa does not know
//: refuse fscontext: not known to corsa
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	if (syscall(SYS_fsopen, "tmpfs", 1) < 0)
		svc_lack("fsopen");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
