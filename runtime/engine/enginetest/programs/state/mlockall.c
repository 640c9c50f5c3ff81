//: doc mlockall: what is mapped from then on is locked, too
//: object locked memory (mlock)
//: engine kmod refused mapping: it is locked in memory
#include "svc.h"
#include "region.h"

enum { STEP = 64 << 10 };

static long locked(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	long kb = -1;

	if (!f)
		svc_die("status");
	while (fgets(line, sizeof(line), f))
		sscanf(line, "VmLck: %ld", &kb);
	fclose(f);
	return kb;
}

static void mutate(uint64_t n)
{
	region_mutate(n);
	if (region_count < 100) /* more locked memory than at the checkpoint before */
		region_add(mmap(NULL, STEP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), STEP, 4096);
	region_mutate(0);
}

static const char *verify(void)
{
	long before = locked(), added;
	void *p = mmap(NULL, STEP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	added = locked() - before;
	munmap(p, STEP);
	if (added != STEP >> 10)
		return svc_fail("%ld KiB of %d that were mapped are locked", added, STEP >> 10);
	if (before < (STEP >> 10) * region_count)
		return svc_fail("%ld KiB are locked", before);
	return region_verify();
}

static void spoil(void)
{
	SVC_TRY(munlockall());
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { region_get, mutate, verify, spoil, NULL };

	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		svc_lack("the right to lock memory");
	region_add(mmap(NULL, STEP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), STEP, 64);
	return svc_main(argc, argv, &ops);
}
