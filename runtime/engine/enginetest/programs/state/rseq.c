//: doc restartable sequences: the kernel goes on writing each thread's processor number
//: object restartable sequences
#include "svc.h"
#include "sum.h"
#include "workers.h"
#include <sched.h>
#include <sys/rseq.h>

static volatile struct rseq *area(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static const char *check(struct worker *w)
{
	cpu_set_t all, one;
	const char *bad = NULL;

	SVC_TRY(sched_getaffinity(0, sizeof(all), &all));
	for (int cpu = 0; cpu < CPU_SETSIZE && !bad; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		SVC_TRY(sched_setaffinity(0, sizeof(one), &one));
		if (area()->cpu_id != (unsigned)cpu || area()->cpu_id_start != (unsigned)cpu)
			bad = svc_fail("on processor %d the kernel says %u", cpu, area()->cpu_id);
	}
	SVC_TRY(sched_setaffinity(0, sizeof(all), &all));
	return bad;
}

static const char *verify(void)
{
	return workers_and_main(check);
}

static const char *unregister(struct worker *w)
{
	if (w->index == 1)
		SVC_TRY(syscall(SYS_rseq, area(), 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG));
	return NULL;
}

static void spoil(void)
{
	workers_run(unregister);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };

	if (!__rseq_size) {
		fprintf(stderr, "the C library has not registered rseq\n");
		return 1;
	}
	workers_start(3, NULL);
	return svc_main(argc, argv, &ops);
}
