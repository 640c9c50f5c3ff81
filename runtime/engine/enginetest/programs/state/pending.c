//: doc signals that are blocked and pending: the state is the value that a queued signal carries
//: object pending signals
//: engine kmod refused signal: would be lost
#include "svc.h"

static uint64_t last;

/* take empties the queue; without a signal in it the state is lost. */
static int take(uint64_t *value)
{
	struct timespec now = { 0, 0 };
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 2);
	if (SVC_COUNT(sigtimedwait(&set, &info, &now)) < 0)
		return -1;
	*value = (uintptr_t)info.si_value.sival_ptr;
	return 0;
}

static void put(uint64_t value)
{
	SVC_TRY(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){ .sival_ptr = (void *)(uintptr_t)value }));
}

static uint64_t get(void)
{
	uint64_t value;

	if (take(&value))
		return ~0ull;
	put(value);
	return value;
}

static void mutate(uint64_t n)
{
	uint64_t value = ~0ull;

	take(&value);
	put(value + n);
	last = value + n;
}

static const char *verify(void)
{
	sigset_t set;

	sigpending(&set);
	if (!sigismember(&set, SIGUSR2))
		return "the signal sent to the thread is not pending any more";
	if (get() != last)
		return "the queued signal has not kept its value";
	return NULL;
}

static void spoil(void)
{
	uint64_t value;

	take(&value);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 2);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	pthread_kill(pthread_self(), SIGUSR2);
	put(0);
	return svc_main(argc, argv, &ops);
}
