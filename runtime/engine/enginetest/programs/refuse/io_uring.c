//: doc an io_uring
//: object io_uring
//: refuse io_uring: cannot be copied
#include "svc.h"
#include "plain.h"
#include <linux/io_uring.h>

static void hold(void)
{
	struct io_uring_params params = { 0 };

	SVC_TRY(syscall(SYS_io_uring_setup, 4, &params));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
