//: doc memory of hugetlbfs
//: object hugetlbfs
//: refuse anon_hugepage: huge pages of hugetlbfs are reserved
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	if (mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0) == MAP_FAILED)
		svc_lack("MAP_HUGETLB");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
