//: doc a userfaultfd
//: object userfaultfd
//: refuse userfaultfd: is not inherited
#include "svc.h"
#include "plain.h"
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

static void hold(void)
{
	int fd = SVC_TRY(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
	struct uffdio_api api = { .api = UFFD_API };

	SVC_TRY(ioctl(fd, UFFDIO_API, &api));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
