//: doc a virtual machine
//: object KVM
//: optional
//: refuse /dev/kvm: a virtual machine's state is outside
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	if (open("/dev/kvm", O_RDWR | O_CLOEXEC) < 0)
		svc_lack("/dev/kvm");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
