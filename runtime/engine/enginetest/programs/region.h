/*
 * region.h: state that is plain memory. A program adds its regions; mutate stamps every stride of each with a
 * pattern that holds the sum, get reads it back from the first stamp, verify checks all stamps.
 */
#ifndef REGION_H
#define REGION_H

struct region {
	uint64_t *p;
	size_t bytes;
	size_t stride;
};

static struct region regions[1024];
static int region_count;

/* region_word is the word that belongs at index i of region r when the sum is sum. */
static uint64_t region_word(uint64_t sum, size_t r, size_t i)
{
	return sum ^ (r * 1000003 + i + 1) * 0x9e3779b97f4a7c15ull;
}

static void region_stamp(int r, uint64_t sum)
{
	for (size_t i = 0; i < regions[r].bytes / 8; i += regions[r].stride / 8)
		((volatile uint64_t *)regions[r].p)[i] = region_word(sum, r, i);
}

/* region_add registers bytes at p, stamped at every stride (8: every word), with the sum 0. */
static void region_add(void *p, size_t bytes, size_t stride)
{
	if (p == MAP_FAILED || !p)
		svc_die("region");
	regions[region_count] = (struct region){ p, bytes, stride };
	region_stamp(region_count++, 0);
}

static uint64_t region_get(void)
{
	return regions[0].p[0] ^ region_word(0, 0, 0);
}

static void region_mutate(uint64_t n)
{
	uint64_t sum = region_get() + n;

	for (int r = 0; r < region_count; r++)
		region_stamp(r, sum);
}

static const char *region_verify(void)
{
	uint64_t sum = region_get();

	for (int r = 0; r < region_count; r++)
		for (size_t i = 0; i < regions[r].bytes / 8; i += regions[r].stride / 8)
			if (((volatile uint64_t *)regions[r].p)[i] != region_word(sum, r, i))
				return svc_fail("word %zu of region %d at %p does not hold %llu", i, r, (void *)regions[r].p,
						(unsigned long long)sum);
	return NULL;
}

static void region_spoil(void)
{
	struct region *last = &regions[region_count - 1];

	last->p[(last->bytes - 1) / last->stride * (last->stride / 8)] ^= 1;
}

static const struct svc_ops region_ops = { region_get, region_mutate, region_verify, region_spoil, NULL };

#endif
