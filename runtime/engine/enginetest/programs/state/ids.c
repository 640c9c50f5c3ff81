//: doc process and thread ids stay what they were: also those kept in mutexes, by glibc and by the service itself
//: object process and thread ids
#include "svc.h"
#include "sum.h"
#include "workers.h"

static pid_t pid, tids[WORKERS_MAX], leader;
static pthread_mutex_t held[WORKERS_MAX];
static __thread volatile int signalled;
enum { THREADS = 6, LEADER = THREADS }; /* the main thread holds the last mutex */

static void on_signal(int sig)
{
	signalled = sig;
}

/* take makes a mutex that records its owner's tid, and holds it for good: error checking, recursive or robust. */
static void take(int i)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, i % 3 == 1 ? PTHREAD_MUTEX_RECURSIVE : PTHREAD_MUTEX_ERRORCHECK);
	if (i % 3 == 2)
		pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&held[i], &attr);
	pthread_mutex_lock(&held[i]);
	tids[i] = gettid();
}

static void birth(struct worker *w)
{
	take(w->index);
}

static const char *check(int i)
{
	int r;

	if (getpid() != pid || syscall(SYS_gettid) != tids[i])
		return svc_fail("pid %d tid %ld, were %d and %d", getpid(), syscall(SYS_gettid), pid, tids[i]);
	r = pthread_mutex_lock(&held[i]);
	if (r != (i % 3 == 1 ? 0 : EDEADLK))
		return svc_fail("locking its own mutex again gives %s", strerror(r));
	r = pthread_mutex_unlock(&held[i]);
	if (r)
		return svc_fail("unlocking its own mutex gives %s", strerror(r));
	if (i % 3 != 1 && pthread_mutex_lock(&held[i]))
		return "cannot lock its mutex again";
	signalled = 0;
	r = pthread_kill(pthread_self(), SIGUSR1);
	if (r || signalled != SIGUSR1)
		return svc_fail("pthread_kill to itself: %s, handler saw %d", strerror(r), signalled);
	signalled = 0;
	if (syscall(SYS_tgkill, pid, tids[i], SIGUSR2) || signalled != SIGUSR2)
		return "tgkill by the ids that it has kept";
	return NULL;
}

static const char *check_job(struct worker *w)
{
	return check(w->index);
}

static const char *verify(void)
{
	const char *bad = check(LEADER);

	if (!bad && pid != leader)
		bad = "the leader's tid is not the pid";
	if (!bad && pthread_mutex_trylock(&held[0]) != EBUSY)
		bad = "a worker's mutex is free";
	return bad ? bad : workers_run(check_job);
}

static void spoil(void)
{
	tids[3]++;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };

	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	pid = getpid();
	leader = gettid();
	take(LEADER);
	workers_start(THREADS, birth);
	return svc_main(argc, argv, &ops);
}
