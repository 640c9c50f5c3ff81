//: doc a memfd
//: object memfd
//: refuse memfd:cache: a memfd is common to all instances
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	SVC_TRY(memfd_create("cache", MFD_CLOEXEC));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
