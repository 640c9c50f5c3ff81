//: doc thread-local storage of eight threads and of the main thread
//: object thread-local storage
#include "svc.h"
#include "workers.h"

static __thread uint64_t mine[64];
static __thread int number = -1;
static uint64_t add;

static void own(struct worker *w)
{
	number = w->index;
}

static void bump(void)
{
	for (int i = 0; i < 64; i++)
		mine[i] += add * (i + 1);
}

static const char *bump_job(struct worker *w)
{
	bump();
	return NULL;
}

static uint64_t get(void)
{
	return mine[0];
}

static void mutate(uint64_t n)
{
	add = n;
	bump();
	workers_run(bump_job);
}

static const char *check(void)
{
	for (int i = 0; i < 64; i++)
		if (mine[i] != add * (i + 1))
			return svc_fail("word %d is %llu, not %llu", i, (unsigned long long)mine[i],
					(unsigned long long)add * (i + 1));
	return NULL;
}

static const char *check_job(struct worker *w)
{
	return number != w->index ? "the wrong thread's storage" : check();
}

static const char *verify(void)
{
	const char *bad;

	add = mine[0];
	bad = check();
	return bad ? bad : workers_run(check_job);
}

static const char *spoil_job(struct worker *w)
{
	mine[63] += w->index == 5;
	return NULL;
}

static void spoil(void)
{
	workers_run(spoil_job);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	workers_start(8, own);
	return svc_main(argc, argv, &ops);
}
