//: doc timerfds for a time of the clock: they keep their deadline and are told when the clock is set
//: object timerfd
#include "svc.h"
#include <sys/timerfd.h>

static int wall, soon;
static int64_t deadline;
static uint64_t sum;

static void arm(void)
{
	struct timespec now;
	struct itimerspec at = { { 0, 0 }, { 0, 0 } };

	clock_gettime(CLOCK_REALTIME, &now);
	deadline = at.it_value.tv_sec = now.tv_sec + 100000 + sum % 1000;
	SVC_TRY(timerfd_settime(wall, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &at, NULL));
}

static uint64_t get(void)
{
	return sum;
}

static void mutate(uint64_t n)
{
	sum += n;
	arm();
}

static const char *verify(void)
{
	struct itimerspec left, at = { { 0, 0 }, { 0, 0 } };
	struct timespec now;
	char path[64], line[128];
	unsigned flags = ~0;
	uint64_t ticks;
	FILE *f;

	clock_gettime(CLOCK_REALTIME, &now);
	SVC_TRY(timerfd_gettime(wall, &left));
	if (llabs(now.tv_sec + left.it_value.tv_sec - deadline) > 2)
		return svc_fail("the deadline is off by %lld s", (long long)(now.tv_sec + left.it_value.tv_sec - deadline));
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", wall);
	f = fopen(path, "re");
	if (!f)
		return "cannot read fdinfo";
	while (fgets(line, sizeof(line), f))
		sscanf(line, "settime flags: %o", &flags);
	fclose(f);
	if (flags != (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET))
		return svc_fail("flags %o", flags);
	/* One whose time had come, unread, with an interval: it has ticked, but not since the epoch. */
	if (!SVC_WAIT(SVC_COUNT(read(soon, &ticks, 8)) == 8))
		return "a timer that was due does not tell";
	if (ticks > 1000000)
		return svc_fail("a timer that was due has ticked %llu times", (unsigned long long)ticks);
	clock_gettime(CLOCK_MONOTONIC, &at.it_value);
	at.it_interval.tv_sec = 3600;
	SVC_TRY(timerfd_settime(soon, TFD_TIMER_ABSTIME, &at, NULL));
	return NULL;
}

static void spoil(void)
{
	struct itimerspec at = { { 0, 0 }, { 100000, 0 } };

	SVC_TRY(timerfd_settime(wall, 0, &at, NULL));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	struct itimerspec at = { { 3600, 0 }, { 0, 0 } };

	wall = SVC_TRY(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC));
	soon = SVC_TRY(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
	clock_gettime(CLOCK_MONOTONIC, &at.it_value);
	SVC_TRY(timerfd_settime(soon, TFD_TIMER_ABSTIME, &at, NULL));
	arm();
	return svc_main(argc, argv, &ops);
}
