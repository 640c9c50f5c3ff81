//: doc pages written in known numbers, in private and in shared anonymous memory
//: object shared anonymous memory
//: engine kmod refused mapping: it is shared anonymous memory
#include "svc.h"
#include "region.h"

enum { PAGE = 4096, PRIVATE = 1024, SHARED = 64, UNTOUCHED = 256 };

static unsigned char *own, *shared, *untouched;
static uint64_t writes;

/*
 * write A B: writes the first A pages of private and B pages of shared memory, where region.h has no stamp.
 * rewrite: writes all private pages with what they hold. look: reads pages that were never written.
 */
static int extra(const char *line, char *reply, size_t size)
{
	unsigned a, b, sum = 0;

	if (sscanf(line, "write %u %u", &a, &b) == 2 && a <= PRIVATE && b <= SHARED) {
		writes++;
		for (unsigned i = 0; i < a; i++)
			memcpy(own + i * PAGE + 64, &writes, sizeof(writes));
		for (unsigned i = 0; i < b; i++)
			memcpy(shared + i * PAGE + 64, &writes, sizeof(writes));
	} else if (!strcmp(line, "rewrite")) {
		for (unsigned i = 0; i < PRIVATE; i++)
			((volatile unsigned char *)own)[i * PAGE + 64] = ((volatile unsigned char *)own)[i * PAGE + 64];
	} else if (!strcmp(line, "look")) {
		for (unsigned i = 0; i < UNTOUCHED; i++)
			sum += ((volatile unsigned char *)untouched)[i * PAGE];
		if (sum)
			svc_die("untouched memory is not zero");
	} else {
		return 0;
	}
	snprintf(reply, size, "ok");
	return 1;
}

static unsigned char *map(size_t pages, int how)
{
	return SVC_TRY(mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, how | MAP_ANONYMOUS, -1, 0));
}

int main(int argc, char **argv)
{
	static struct svc_ops ops;

	ops = region_ops;
	ops.extra = extra;
	own = map(PRIVATE, MAP_PRIVATE);
	shared = map(SHARED, MAP_SHARED);
	untouched = map(UNTOUCHED, MAP_PRIVATE);
	region_add(own, PRIVATE * PAGE, PAGE);
	region_add(shared, SHARED * PAGE, PAGE);
	return svc_main(argc, argv, &ops);
}
