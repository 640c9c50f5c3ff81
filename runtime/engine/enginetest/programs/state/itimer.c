//: doc interval timers of all three kinds; the state is in an interval
//: object interval timers (setitimer, alarm)
//: engine kmod refused timer: keeps it for the process as a whole
#include "svc.h"
#include "workers.h"
#include <sys/time.h>

static volatile uint64_t alarms;

static void on_alarm(int sig)
{
	alarms++;
}

static void set(int which, long first, long interval_sec, long interval_usec)
{
	struct itimerval v = { { interval_sec, interval_usec }, { first, 0 } };

	if (!first)
		v.it_value = v.it_interval;
	SVC_TRY(setitimer(which, &v, NULL));
}

static uint64_t get(void)
{
	struct itimerval v;

	SVC_TRY(getitimer(ITIMER_PROF, &v));
	return v.it_interval.tv_sec;
}

static void mutate(uint64_t n)
{
	set(ITIMER_PROF, 700000, get() + n, 0);
}

static const char *verify(void)
{
	uint64_t before = alarms;
	struct itimerval v;

	if (!SVC_WAIT(alarms > before + 1))
		return "SIGALRM does not come any more";
	SVC_TRY(getitimer(ITIMER_VIRTUAL, &v));
	if (v.it_value.tv_sec < 490000 || v.it_value.tv_sec > 500000 || v.it_interval.tv_sec)
		return svc_fail("ITIMER_VIRTUAL has %ld s left", v.it_value.tv_sec);
	SVC_TRY(getitimer(ITIMER_PROF, &v));
	if (v.it_value.tv_sec && (v.it_value.tv_sec < 690000 || v.it_value.tv_sec > 700000))
		return svc_fail("ITIMER_PROF has %ld s left", v.it_value.tv_sec);
	return NULL;
}

static void spoil(void)
{
	set(ITIMER_REAL, 0, 0, 0);
}

/* birth makes the worker the one thread that takes the signal: a call of the main thread is not to be interrupted. */
static void birth(struct worker *w)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	struct sigaction a = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };

	sigset_t set_of_one;

	sigemptyset(&set_of_one);
	sigaddset(&set_of_one, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &set_of_one, NULL);
	sigaction(SIGALRM, &a, NULL);
	workers_start(1, birth);
	set(ITIMER_REAL, 0, 0, 6000);
	set(ITIMER_VIRTUAL, 500000, 0, 0);
	set(ITIMER_PROF, 700000, 0, 0);
	return svc_main(argc, argv, &ops);
}
