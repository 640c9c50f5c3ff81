//: doc memory marked MADV_DONTFORK, which a plain fork would leave out
//: object MADV_DONTFORK memory
//: engine fork refused mapping: MADV_DONTFORK keeps it out of every copy
#include "svc.h"
#include "region.h"

int main(int argc, char **argv)
{
	char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	region_add(p, 65536, 64);
	SVC_TRY(madvise(p, 65536, MADV_DONTFORK));
	return svc_main(argc, argv, &region_ops);
}
