/*
 * timers.h: a service with POSIX timers of all kinds. Included after svc.h; timers_main calls confine, if there is one, before
 * the service serves.
 */
#ifndef TIMERS_H
#define TIMERS_H

#include "workers.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { TICK = SIGUSR1, TO_THREAD = SIGUSR2 };

static timer_t ticking, aimed, far, silent, idle, cpu;
static __thread int aimed_at;
static volatile uint64_t ticks, hits, elsewhere;
static pid_t worker_tid;

static void on_tick(int sig, siginfo_t *info, void *context)
{
	if (info->si_code == SI_TIMER && info->si_value.sival_int == 4711)
		ticks++;
}

static void on_hit(int sig, siginfo_t *info, void *context)
{
	if (aimed_at && info->si_value.sival_int == 42)
		hits++;
	else
		elsewhere++;
}

static uint64_t get(void)
{
	struct itimerspec now;

	SVC_TRY(timer_gettime(far, &now));
	return now.it_interval.tv_nsec;
}

static void mutate(uint64_t n)
{
	struct itimerspec next = { { 2000, get() + n }, { 1000000, 0 } };

	SVC_TRY(timer_settime(far, 0, &next, NULL));
}

static const char *expires(timer_t t, const char *name, long from, long to)
{
	struct itimerspec now;

	if (timer_gettime(t, &now))
		return svc_fail("the timer %s is not there: %s", name, strerror(errno));
	if (now.it_value.tv_sec < from || now.it_value.tv_sec > to)
		return svc_fail("the timer %s expires in %ld s", name, now.it_value.tv_sec);
	return NULL;
}

static const char *verify(void)
{
	uint64_t before = ticks, struck = hits;
	const char *bad;
	timer_t fresh;

	if (!SVC_WAIT(ticks > before + 1))
		return "the periodic timer does not tick any more";
	if (!SVC_WAIT(hits > struck + 1) || elsewhere)
		return svc_fail("the thread's timer: %llu hits, %llu elsewhere", (unsigned long long)hits, (unsigned long long)elsewhere);
	if ((bad = expires(far, "far off", 990000, 1000000)) || (bad = expires(silent, "that tells nobody", 400000, 500000)) ||
	    (bad = expires(idle, "that is not armed", 0, 0)) || (bad = expires(cpu, "of CPU time", 290000, 300000)))
		return bad;
	SVC_TRY(timer_create(CLOCK_MONOTONIC, &(struct sigevent){ .sigev_notify = SIGEV_NONE }, &fresh));
	if (fresh == far || fresh == silent || fresh == idle || fresh == cpu)
		return "a new timer has the id of one that is there";
	SVC_TRY(timer_delete(fresh));
	return NULL;
}

static void spoil(void)
{
	SVC_TRY(timer_delete(silent));
}

/* birth makes the worker the one thread that takes signals: a call of the main thread is not to be interrupted. */
static void birth(struct worker *w)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, TICK);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	aimed_at = 1;
	worker_tid = gettid();
}

static void set(timer_t t, long sec, long nsec, int periodic)
{
	struct itimerspec s = { { 0, 0 }, { sec, nsec } };

	if (periodic)
		s.it_interval = s.it_value;
	SVC_TRY(timer_settime(t, 0, &s, NULL));
}

static int timers_main(int argc, char **argv, void (*confine)(void))
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	struct sigaction tick = { .sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART },
			 hit = { .sa_sigaction = on_hit, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = TICK, .sigev_value.sival_int = 4711 },
			to = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = TO_THREAD, .sigev_value.sival_int = 42 },
			none = { .sigev_notify = SIGEV_NONE };
	timer_t gone[5];
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, TICK);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	sigaction(TICK, &tick, NULL);
	sigaction(TO_THREAD, &hit, NULL);
	workers_start(1, birth);
	for (int i = 0; i < 5; i++) /* so that ids are not simply counted up */
		SVC_TRY(timer_create(CLOCK_MONOTONIC, &none, &gone[i]));
	to.sigev_notify_thread_id = worker_tid;
	SVC_TRY(timer_create(CLOCK_MONOTONIC, &e, &ticking));
	SVC_TRY(timer_create(CLOCK_BOOTTIME, &to, &aimed));
	SVC_TRY(timer_create(CLOCK_REALTIME, &e, &far));
	for (int i = 0; i < 5; i++)
		SVC_TRY(timer_delete(gone[i]));
	SVC_TRY(timer_create(CLOCK_MONOTONIC, &none, &silent));
	SVC_TRY(timer_create(CLOCK_MONOTONIC, &e, &idle));
	SVC_TRY(timer_create(CLOCK_PROCESS_CPUTIME_ID, &e, &cpu));
	set(ticking, 0, 5000000, 1);
	set(aimed, 0, 7000000, 1);
	set(far, 1000000, 0, 0);
	set(silent, 500000, 0, 1);
	set(cpu, 300000, 0, 0);
	svc_bind(argc, argv, &ops);
	if (confine)
		confine();
	svc_epoll(0);
	return 0;
}

#endif
