//: doc the names of threads
//: object threads: names
#include "svc.h"
#include "workers.h"

static uint64_t sum;

static void set_name(int i)
{
	char name[16];

	snprintf(name, sizeof(name), "t%d-%llu", i, (unsigned long long)sum);
	pthread_setname_np(pthread_self(), name);
}

static const char *name_job(struct worker *w)
{
	set_name(w->index);
	return NULL;
}

/* parse returns the sum that a thread's name holds. */
static const char *parse(int i, unsigned long long *value)
{
	char name[16];
	int index;

	pthread_getname_np(pthread_self(), name, sizeof(name));
	if (sscanf(name, "t%d-%llu", &index, value) != 2 || index != i)
		return svc_fail("it is called %s", name);
	return NULL;
}

static const char *check(struct worker *w)
{
	unsigned long long value;
	const char *bad = parse(w->index, &value);

	return bad || value == sum ? bad : "an old name";
}

static uint64_t get(void)
{
	unsigned long long value = ~0ull;

	parse(99, &value);
	return value;
}

static void mutate(uint64_t n)
{
	sum = get() + n;
	set_name(99);
	workers_run(name_job);
}

static const char *verify(void)
{
	return workers_run(check);
}

static const char *spoil_job(struct worker *w)
{
	if (w->index == 2)
		pthread_setname_np(pthread_self(), "spoilt");
	return NULL;
}

static void spoil(void)
{
	workers_run(spoil_job);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	set_name(99);
	workers_start(4, NULL);
	workers_run(name_job);
	return svc_main(argc, argv, &ops);
}
