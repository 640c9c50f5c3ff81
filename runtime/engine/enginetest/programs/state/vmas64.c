//: doc memory changed in 64 mappings kept apart by guard pages
//: object anonymous mappings
#include "svc.h"
#include "region.h"

int main(int argc, char **argv)
{
	for (int i = 0; i < 64; i++) {
		char *p = mmap(NULL, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			svc_die("mmap");
		SVC_TRY(mprotect(p + 4096, 65536 - 8192, PROT_READ | PROT_WRITE));
		region_add(p + 4096, 65536 - 8192, 1024);
	}
	return svc_main(argc, argv, &region_ops);
}
