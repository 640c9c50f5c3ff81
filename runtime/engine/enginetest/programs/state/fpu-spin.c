//: doc x87, MXCSR, SSE, AVX and AVX-512 registers held while the thread computes and never waits
//: object registers to AVX-512
//: park any
#include "svc.h"
#include "sum.h"
#include "xstate.h"

enum { THREADS = 2 };

static struct holder {
	struct xstate x;
	uint64_t laps;
	const char *bad;
	int index;
} holders[THREADS];

static int spoilt;

static void *hold(void *arg)
{
	struct holder *h = arg;

	for (;;) {
		xstate_fill(&h->x, sum * 8 + h->index + 1);
		XSTATE_HOLD(&h->x, "mov %[turns], %%rcx\n\t1: dec %%rcx\n\tjnz 1b",
			    [turns] "r"(20000 + h->laps % 1000 * (h->index + 1)));
		if (spoilt)
			h->x.want[200]++;
		if (!h->bad)
			h->bad = xstate_compare(&h->x);
		__atomic_add_fetch(&h->laps, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static const char *verify(void)
{
	for (int i = 0; i < THREADS; i++) {
		uint64_t before = __atomic_load_n(&holders[i].laps, __ATOMIC_ACQUIRE);

		if (!SVC_WAIT(__atomic_load_n(&holders[i].laps, __ATOMIC_ACQUIRE) >= before + 2))
			return svc_fail("thread %d stands still", i);
		if (holders[i].bad)
			return svc_fail("thread %d lost %s", i, holders[i].bad);
	}
	return NULL;
}

static void spoil(void)
{
	spoilt = 1;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };
	pthread_t th;

	for (int i = 0; i < THREADS; i++) {
		holders[i].index = i;
		if (pthread_create(&th, NULL, hold, &holders[i]))
			svc_die("pthread_create");
	}
	return svc_main(argc, argv, &ops);
}
