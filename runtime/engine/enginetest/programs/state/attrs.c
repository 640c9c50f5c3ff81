//: doc attributes of threads: affinity, nice value and timer slack
//: object threads: affinity, nice value, timer slack
#include "svc.h"
#include "workers.h"
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static uint64_t sum;
static cpu_set_t all;

static int nice_of(int i)
{
	return (i + sum) % 7;
}

static void affinity_of(int i, cpu_set_t *set)
{
	int n = CPU_COUNT(&all), want = (i + sum) % (n + 1), seen = 0;

	*set = all;
	for (int cpu = 0; cpu < CPU_SETSIZE && want < n; cpu++)
		if (CPU_ISSET(cpu, &all) && seen++ != want)
			CPU_CLR(cpu, set);
}

static const char *set_job(struct worker *w)
{
	cpu_set_t set;

	affinity_of(w->index, &set);
	SVC_TRY(sched_setaffinity(0, sizeof(set), &set));
	errno = 0;
	SVC_TRY(setpriority(PRIO_PROCESS, gettid(), nice_of(w->index)));
	SVC_TRY(prctl(PR_SET_TIMERSLACK, 60000 + sum % 1000 + w->index));
	return NULL;
}

static const char *check(struct worker *w)
{
	cpu_set_t want, now;

	affinity_of(w->index, &want);
	SVC_TRY(sched_getaffinity(0, sizeof(now), &now));
	if (!CPU_EQUAL(&want, &now))
		return "another affinity";
	if (getpriority(PRIO_PROCESS, gettid()) != nice_of(w->index))
		return svc_fail("nice value %d, not %d", getpriority(PRIO_PROCESS, gettid()), nice_of(w->index));
	if (prctl(PR_GET_TIMERSLACK) != (int)(60000 + sum % 1000 + w->index))
		return svc_fail("timer slack %d", prctl(PR_GET_TIMERSLACK));
	return NULL;
}

static uint64_t get(void)
{
	return sum;
}

static void mutate(uint64_t n)
{
	sum += n;
	workers_run(set_job);
}

static const char *verify(void)
{
	return workers_run(check);
}

static const char *spoil_job(struct worker *w)
{
	if (w->index == 1)
		SVC_TRY(setpriority(PRIO_PROCESS, gettid(), 19));
	return NULL;
}

static void spoil(void)
{
	workers_run(spoil_job);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	SVC_TRY(sched_getaffinity(0, sizeof(all), &all));
	workers_start(4, NULL);
	workers_run(set_job);
	return svc_main(argc, argv, &ops);
}
