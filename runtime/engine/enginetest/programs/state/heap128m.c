//: doc a heap of 128 MiB, every page of it written
//: object heap
#include "svc.h"
#include "region.h"

int main(int argc, char **argv)
{
	region_add(malloc(128 << 20), 128 << 20, 4096);
	return svc_main(argc, argv, &region_ops);
}
