//: doc threads born after the branch and gone between checkpoints
//: object threads born and gone
#include "svc.h"
#include "workers.h"

enum { SLOTS = 12 };

static uint64_t sum, total;
static __thread uint64_t share;

static const char *nothing(struct worker *w)
{
	return NULL;
}

static void keep(struct worker *w)
{
	share = sum + w->index;
}

/* mutate ends the threads whose slot matches, and begins others: how many there are depends on the sum. */
static void mutate(uint64_t n)
{
	int ended[SLOTS] = { 0 };

	sum += n;
	for (int i = 0; i < SLOTS; i++)
		ended[i] = workers[i].leave = workers[i].live;
	workers_run(nothing);
	for (int i = 0; i < SLOTS; i++)
		if (ended[i]) {
			if (pthread_join(workers[i].thread, NULL))
				svc_die("pthread_join");
			workers[i].live = 0;
		}
	for (int i = 0; i < SLOTS; i++)
		if ((sum + i) % 3)
			workers_add(i);
}

static uint64_t get(void)
{
	return sum;
}

static const char *check(struct worker *w)
{
	__atomic_add_fetch(&total, 1, __ATOMIC_RELAXED);
	return share == sum + w->index ? NULL : svc_fail("its share is %llu", (unsigned long long)share);
}

static const char *verify(void)
{
	const char *bad;
	uint64_t want = 0;

	for (int i = 0; i < SLOTS; i++)
		want += (sum + i) % 3 != 0;
	total = 0;
	bad = workers_run(check);
	if (bad)
		return bad;
	return total == want ? NULL : svc_fail("%llu threads live, not %llu", (unsigned long long)total,
					       (unsigned long long)want);
}

static void spoil(void)
{
	sum += 3;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	workers_birth = keep;
	worker_count = SLOTS;
	mutate(0);
	return svc_main(argc, argv, &ops);
}
