//: doc a file lock, which an instance could not hold too
//: object file locks
//: refuse lock: only one process can hold it
#include "svc.h"
#include "plain.h"
#include <sys/file.h>

static void hold(void)
{
	int fd = SVC_TRY(open("lock", O_RDONLY | O_CREAT | O_CLOEXEC, 0600));

	SVC_TRY(flock(fd, LOCK_EX | LOCK_NB));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
