//: doc memory on huge pages, written in part after each checkpoint
//: object transparent huge pages
#include "svc.h"
#include "region.h"

enum { HUGE = 2 << 20, MEMORY = 4 * HUGE };

int main(int argc, char **argv)
{
	char *p = mmap(NULL, MEMORY + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p = (char *)(((uintptr_t)p + HUGE - 1) & -(uintptr_t)HUGE);
	if (madvise(p, MEMORY, MADV_HUGEPAGE))
		svc_lack("MADV_HUGEPAGE");
	region_add(p, 64, 8);
	region_add(p + HUGE, HUGE, 4096); /* every page of it */
	region_add(p + 2 * HUGE, HUGE, HUGE / 4);
	region_add(p + 3 * HUGE, HUGE, HUGE / 2);
	return svc_main(argc, argv, &region_ops);
}
