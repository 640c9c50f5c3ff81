//: doc a block device
//: object block devices
//: optional
//: refuse disk: it is a block device
#include "svc.h"
#include "plain.h"
#include <sys/sysmacros.h>

static void hold(void)
{
	struct stat st;

	SVC_TRY(stat("/", &st));
	if (major(st.st_dev) == 0) {
		errno = ENODEV;
		svc_lack("a block device for its root");
	}
	if (mknod("disk", S_IFBLK | 0600, st.st_dev) || open("disk", O_RDONLY | O_CLOEXEC) < 0)
		svc_lack("the right to open a block device");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
