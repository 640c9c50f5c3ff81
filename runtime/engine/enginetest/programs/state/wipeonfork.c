//: doc a MADV_WIPEONFORK page is either kept whole or wiped whole; verify says which
//: object MADV_WIPEONFORK memory
//: engine fork private: zeroed, as at any fork
//: engine kmod private: kept
#include "svc.h"
#include "sum.h"

static unsigned char *page;

static void fill(void)
{
	memset(page, 0xa5, 4096);
}

static const char *verify(void)
{
	unsigned char first = page[0];

	for (int i = 0; i < 4096; i++)
		if (page[i] != first)
			return svc_fail("byte %d differs from the first", i);
	if (first != 0xa5 && first != 0)
		return svc_fail("the page holds %02x", first);
	fill();
	return first ? "ok kept" : "ok wiped";
}

static void spoil(void)
{
	page[100] = 1;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };

	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		svc_die("mmap");
	SVC_TRY(madvise(page, 4096, MADV_WIPEONFORK));
	fill();
	return svc_main(argc, argv, &ops);
}
