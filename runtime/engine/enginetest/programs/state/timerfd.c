//: doc timerfds: a periodic one ticks on, one far off is not lost; the state is in its interval
//: object timerfd
#include "svc.h"
#include <sys/timerfd.h>

static int ticking, far, idle;

static uint64_t get(void)
{
	struct itimerspec now;

	SVC_TRY(timerfd_gettime(far, &now));
	return now.it_interval.tv_nsec;
}

static void mutate(uint64_t n)
{
	struct itimerspec next = { { 2000, get() + n }, { 1000000, 0 } };

	SVC_TRY(timerfd_settime(far, 0, &next, NULL));
}

static const char *verify(void)
{
	struct itimerspec now;
	uint64_t ticks;

	for (int i = 0; i < 2; i++) {
		ticks = 0;
		if (!SVC_WAIT(SVC_COUNT(read(ticking, &ticks, 8)) == 8) || !ticks)
			return "the periodic timer does not tick any more";
	}
	SVC_TRY(timerfd_gettime(ticking, &now));
	if (now.it_interval.tv_nsec != 5000000)
		return "the periodic timer has another interval";
	SVC_TRY(timerfd_gettime(far, &now));
	if (now.it_value.tv_sec < 990000 || now.it_value.tv_sec > 1000000)
		return svc_fail("the timer far off expires in %lld s", (long long)now.it_value.tv_sec);
	SVC_TRY(timerfd_gettime(idle, &now));
	if (now.it_value.tv_sec || now.it_value.tv_nsec)
		return "the idle timer is armed";
	return NULL;
}

static void spoil(void)
{
	struct itimerspec off = { 0 };

	SVC_TRY(timerfd_settime(ticking, 0, &off, NULL));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	struct itimerspec tick = { { 0, 5000000 }, { 0, 5000000 } }, late = { { 2000, 0 }, { 1000000, 0 } };

	ticking = SVC_TRY(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
	far = SVC_TRY(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC));
	idle = SVC_TRY(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC));
	SVC_TRY(timerfd_settime(ticking, 0, &tick, NULL));
	SVC_TRY(timerfd_settime(far, 0, &late, NULL));
	return svc_main(argc, argv, &ops);
}
