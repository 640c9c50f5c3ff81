//: doc mappings made and unmapped by every mutation, with holes and different protections
//: object anonymous mappings
#include "svc.h"

enum { SLOTS = 40, BYTES = 5 * 4096 };

static uint64_t sum;
static unsigned char *slot[SLOTS];

static void fill(int i)
{
	slot[i] = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (slot[i] == MAP_FAILED)
		svc_die("mmap");
	memset(slot[i], (sum + i) & 255, BYTES);
	SVC_TRY(mprotect(slot[i] + 4096, 4096, PROT_NONE));
	SVC_TRY(mprotect(slot[i] + 3 * 4096, 4096, PROT_READ));
}

static void mutate(uint64_t n)
{
	sum += n;
	for (int i = 0; i < SLOTS; i++)
		if (slot[i] && (i + sum) % 4)
			SVC_TRY(munmap(slot[i], BYTES));
		else if (slot[i])
			SVC_TRY(munmap(slot[i] + 2 * 4096, 4096)); /* a hole, left behind for good */
	for (int i = 0; i < SLOTS; i++)
		fill(i);
}

static uint64_t get(void)
{
	return sum;
}

static const char *verify(void)
{
	for (int i = 0; i < SLOTS; i++)
		for (int at = 0; at < BYTES; at++)
			if (at / 4096 != 1 && slot[i][at] != ((sum + i) & 255))
				return svc_fail("byte %d of slot %d", at, i);
	return NULL;
}

static void spoil(void)
{
	slot[7][0]++;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	for (int i = 0; i < SLOTS; i++)
		fill(i);
	return svc_main(argc, argv, &ops);
}
