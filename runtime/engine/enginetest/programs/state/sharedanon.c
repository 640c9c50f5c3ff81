//: doc MAP_SHARED anonymous memory: shared within the service, private to the instance
//: object shared anonymous memory
//: engine kmod refused mapping: it is shared anonymous memory
#include "svc.h"
#include "region.h"

int main(int argc, char **argv)
{
	region_add(mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 1 << 20, 512);
	region_add(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 8192, 8);
	return svc_main(argc, argv, &region_ops);
}
