//: doc MAP_PRIVATE of a file, written
//: object private file mappings
#include "svc.h"
#include "region.h"

int main(int argc, char **argv)
{
	int fd = SVC_TRY(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));

	region_add(mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), 12288, 8);
	close(fd);
	return svc_main(argc, argv, &region_ops);
}
