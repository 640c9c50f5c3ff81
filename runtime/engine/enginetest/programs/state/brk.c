//: doc the program break: it moves up by a page with every mutation
//: object program break
#include "svc.h"

enum { WORDS = 512 };

static uint64_t *first;

static uint64_t get(void)
{
	return first[0];
}

static uint64_t pages(void)
{
	return (uint64_t *)sbrk(0) - first > 0 ? ((uint64_t *)sbrk(0) - first) / WORDS : 0;
}

static void mutate(uint64_t n)
{
	uint64_t *page = sbrk(4096);

	if (page == (void *)-1)
		svc_die("sbrk");
	first[0] += n;
	first[1]++;
	page[WORDS - 1] = first[1];
}

static const char *verify(void)
{
	if (pages() != first[1] + 1)
		return svc_fail("the break is %llu pages up, not %llu", (unsigned long long)pages(),
				(unsigned long long)first[1] + 1);
	for (uint64_t i = 1; i <= first[1]; i++)
		if (first[(i + 1) * WORDS - 1] != i)
			return svc_fail("page %llu below the break", (unsigned long long)i);
	return NULL;
}

static void spoil(void)
{
	sbrk(4096);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	void *volatile room = malloc(1 << 16);

	/* From here on malloc has what it needs for the connections and leaves the break alone. */
	free(room);
	sbrk(-(uintptr_t)sbrk(0) & 4095);
	first = sbrk(4096);
	if (first == (void *)-1)
		svc_die("sbrk");
	return svc_main(argc, argv, &ops);
}
