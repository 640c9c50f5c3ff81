//: doc the clocks of the vDSO agree with the kernel's, in every thread, and never go back
//: object clocks by the vDSO
#include "svc.h"
#include "sum.h"
#include "workers.h"

static const clockid_t clocks[] = { CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE };

static int64_t last, ahead;

static int64_t nanoseconds(clockid_t clock, int by_kernel)
{
	struct timespec t;

	SVC_TRY(by_kernel ? syscall(SYS_clock_gettime, clock, &t) : clock_gettime(clock, &t));
	return t.tv_sec * 1000000000ll + t.tv_nsec + ahead;
}

static const char *check(struct worker *w)
{
	for (size_t i = 0; i < sizeof(clocks) / sizeof(clocks[0]); i++) {
		int64_t a = nanoseconds(clocks[i], 1), b = nanoseconds(clocks[i], 0), c = nanoseconds(clocks[i], 1) + ahead;

		if ((b < a || b > c) && clocks[i] != CLOCK_REALTIME) /* that one may be set */
			return svc_fail("clock %d: %lld by the kernel, %lld by the vDSO, %lld by the kernel", clocks[i], (long long)a,
					(long long)b, (long long)c);
	}
	return NULL;
}

static const char *verify(void)
{
	int64_t now = nanoseconds(CLOCK_MONOTONIC, 0), before = last;

	last = now;
	if (now < before)
		return "the monotonic clock went back";
	return workers_and_main(check);
}

static void spoil(void)
{
	ahead = -1000000000;
	last = INT64_MAX;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };

	workers_start(2, NULL);
	return svc_main(argc, argv, &ops);
}
