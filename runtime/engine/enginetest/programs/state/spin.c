//: doc a thread that computes for ever and never makes a system call
//: object threads that never wait
//: park any
#include "svc.h"
#include "sum.h"

static volatile uint64_t turns, twin;
static volatile int stop;
static pthread_t thread;

static void *spin(void *arg)
{
	/* Two counters that move together: a thread that loses an instruction or repeats one shows. */
	for (uint64_t i = 1; !stop; i++) {
		turns = i;
		twin = i;
	}
	return NULL;
}

static const char *verify(void)
{
	uint64_t before = twin, a, b;

	if (!SVC_WAIT(twin != before))
		return "the thread stands still";
	for (int i = 0; i < 1000; i++) {
		b = twin;
		a = turns;
		if (a < b || b < before)
			return svc_fail("the counters stand at %llu and %llu", (unsigned long long)a, (unsigned long long)b);
		before = b;
	}
	return NULL;
}

static void spoil(void)
{
	stop = 1;
	pthread_join(thread, NULL);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };

	if (pthread_create(&thread, NULL, spin, NULL))
		svc_die("pthread_create");
	return svc_main(argc, argv, &ops);
}
