//: doc state in the frame of main, and a stack that grows and is used 2 MiB deep after the branch
//: object stacks, and their growth
#include "svc.h"

static volatile uint64_t *frame;
static uint64_t depth_mark;

__attribute__((noinline)) static uint64_t dive(int depth, uint64_t seed)
{
	volatile uint64_t page[512];

	for (int i = 0; i < 512; i++)
		page[i] = seed + i;
	uint64_t below = depth ? dive(depth - 1, seed) : 0;
	for (int i = 0; i < 512; i++)
		if (page[i] != seed + i)
			return 1;
	return below;
}

static uint64_t get(void)
{
	return frame[0];
}

static void mutate(uint64_t n)
{
	frame[0] += n;
	for (int i = 1; i < 1000; i++)
		frame[i] = frame[0] + i;
	depth_mark += dive(100 + n % 400, n);
}

static const char *verify(void)
{
	for (int i = 1; i < 1000; i++)
		if (frame[i] != frame[0] + i)
			return svc_fail("word %d of the frame", i);
	if (depth_mark || dive(450, frame[0]))
		return "a deep stack did not keep its contents";
	return NULL;
}

static void spoil(void)
{
	frame[500]++;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	volatile uint64_t here[1000];

	for (int i = 0; i < 1000; i++)
		here[i] = i;
	frame = here;
	return svc_main(argc, argv, &ops);
}
