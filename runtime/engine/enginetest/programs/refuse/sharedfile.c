//: doc a shared mapping of a file
//: object shared file mappings
//: refuse shared.data: it is a shared file mapping
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	int fd = SVC_TRY(open("shared.data", O_RDWR | O_CREAT | O_CLOEXEC, 0600));

	SVC_TRY(ftruncate(fd, 8192));
	SVC_TRY(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	close(fd);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
