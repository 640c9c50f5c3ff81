//: doc a counter in static data: the smallest service
//: object static data
#include "svc.h"

static uint64_t sum, twin = ~0ull;

static uint64_t get(void)
{
	return sum;
}

static void mutate(uint64_t n)
{
	sum += n;
	twin = ~sum;
}

static const char *verify(void)
{
	return twin == ~sum ? NULL : svc_fail("the counter and its complement differ");
}

static void spoil(void)
{
	twin++;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	return svc_main(argc, argv, &ops);
}
