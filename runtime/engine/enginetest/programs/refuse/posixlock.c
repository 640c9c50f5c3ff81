//: doc a lock of fcntl
//: object file locks
//: refuse locked.data: a POSIX read lock is held
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
	int fd;

	fd = SVC_TRY(open("locked.data", O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
	SVC_TRY(fcntl(fd, F_SETLK, &lock));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
