//: doc a ring of asynchronous I/O
//: object ring of asynchronous I/O (libaio)
//: refuse aio: the kernel completes asynchronous I/O
#include "svc.h"
#include "plain.h"
#include <linux/aio_abi.h>

static void hold(void)
{
	aio_context_t ring = 0;

	SVC_TRY(syscall(SYS_io_setup, 4, &ring));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
