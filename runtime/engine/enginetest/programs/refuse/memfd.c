//: doc a shared mapping of a memfd
//: object memfd, mapped shared
//: refuse memfd: a shared memfd would be common
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	int fd = SVC_TRY(memfd_create("box", MFD_CLOEXEC));

	SVC_TRY(ftruncate(fd, 8192));
	SVC_TRY(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	close(fd);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
