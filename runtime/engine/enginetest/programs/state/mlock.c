//: doc locked memory, which a plain fork would unlock
//: object locked memory (mlock)
//: engine kmod refused mapping: it is locked in memory
#include "svc.h"
#include "region.h"

static long want_kb = 256;

static const char *verify(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	long kb = -1;

	if (!f)
		return "cannot read /proc/self/status";
	while (fgets(line, sizeof(line), f))
		sscanf(line, "VmLck: %ld", &kb);
	fclose(f);
	if (kb != want_kb)
		return svc_fail("%ld KiB are locked, not %ld", kb, want_kb);
	return region_verify();
}

static void spoil(void)
{
	SVC_TRY(munlockall());
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { region_get, region_mutate, verify, spoil, NULL };
	char *p = mmap(NULL, 256 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	region_add(p, 256 << 10, 64);
	SVC_TRY(mlock(p, 256 << 10));
	return svc_main(argc, argv, &ops);
}
