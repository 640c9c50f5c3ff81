//: doc a thread that counts by itself every millisecond; "where" tells the address of its counter
//: object threads that wake by themselves
#include "svc.h"
#include "sum.h"

static volatile uint64_t ticks;
static volatile int stop;
static pthread_t thread;

static void *tick(void *arg)
{
	while (!stop) {
		ticks++;
		svc_nap();
	}
	return NULL;
}

static const char *verify(void)
{
	uint64_t before = ticks;

	return SVC_WAIT(ticks != before) ? NULL : "the ticker stands still";
}

static void spoil(void)
{
	stop = 1;
	pthread_join(thread, NULL);
}

static int where(const char *line, char *reply, size_t size)
{
	if (strcmp(line, "where"))
		return 0;
	snprintf(reply, size, "%llu", (unsigned long long)(uintptr_t)&ticks);
	return 1;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, where };

	if (pthread_create(&thread, NULL, tick, NULL))
		svc_die("pthread_create");
	return svc_main(argc, argv, &ops);
}
