//: doc malloc: blocks of many sizes, replaced and resized by every mutation
//: object heap
#include "svc.h"

enum { BLOCKS = 300 };

static uint64_t sum;
static struct block {
	size_t size;
	unsigned char *p;
} blocks[BLOCKS];

static unsigned char pattern(int i, size_t at)
{
	return (sum * 31 + i * 7 + at) & 255;
}

static void mutate(uint64_t n)
{
	sum += n;
	for (int i = 0; i < BLOCKS; i++) {
		size_t size = 1 + (i * 977 + sum * 131) % (i % 16 ? 3000 : 300000);

		if ((sum + i) % 3) {
			free(blocks[i].p);
			blocks[i].p = malloc(size);
		} else {
			blocks[i].p = realloc(blocks[i].p, size);
		}
		if (!blocks[i].p)
			svc_die("malloc");
		blocks[i].size = size;
		for (size_t at = 0; at < size; at++)
			blocks[i].p[at] = pattern(i, at);
	}
}

static uint64_t get(void)
{
	return sum;
}

static const char *verify(void)
{
	for (int i = 0; i < BLOCKS; i++)
		for (size_t at = 0; at < blocks[i].size; at++)
			if (blocks[i].p[at] != pattern(i, at))
				return svc_fail("byte %zu of block %d", at, i);
	return NULL;
}

static void spoil(void)
{
	blocks[BLOCKS / 2].p[0]++;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	mutate(0);
	return svc_main(argc, argv, &ops);
}
