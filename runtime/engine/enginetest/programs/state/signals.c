//: doc handlers, alternate stacks and signal masks of every thread
//: object signal handlers, masks, alternate stacks
#include "svc.h"
#include "workers.h"

enum { THREADS = 5 };

static uint64_t sum;
static __thread sigset_t mask;
static __thread stack_t alt;
static __thread int number;
static __thread volatile int handled, on_alt;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	char here;

	handled = sig;
	on_alt = &here >= (char *)alt.ss_sp && &here < (char *)alt.ss_sp + alt.ss_size;
}

static void set_mask(void)
{
	sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN + 3 + (number + sum) % 16);
	sigaddset(&mask, SIGWINCH);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

static void birth(struct worker *w)
{
	number = w ? w->index : THREADS;
	alt.ss_size = 32768 + 4096 * number;
	alt.ss_sp = malloc(alt.ss_size);
	SVC_TRY(sigaltstack(&alt, NULL));
	set_mask();
}

static const char *check(struct worker *w)
{
	sigset_t now;
	stack_t ss;

	SVC_TRY(sigaltstack(NULL, &ss));
	if (ss.ss_sp != alt.ss_sp || ss.ss_size != alt.ss_size || ss.ss_flags)
		return "another alternate stack";
	handled = on_alt = 0;
	raise(SIGUSR1);
	if (handled != SIGUSR1 || !on_alt)
		return svc_fail("the handler saw %d, on the alternate stack: %d", handled, on_alt);
	handled = 0;
	raise(SIGRTMIN + 1);
	if (handled != SIGRTMIN + 1 || on_alt)
		return svc_fail("the handler saw %d, on the alternate stack: %d", handled, on_alt);
	pthread_sigmask(SIG_BLOCK, NULL, &now);
	for (int sig = 1; sig < 64; sig++)
		if (sig != 32 && sig != 33 && sigismember(&now, sig) != sigismember(&mask, sig))
			return svc_fail("signal %d is %sblocked", sig, sigismember(&now, sig) ? "" : "not ");
	return NULL;
}

static const char *remask(struct worker *w)
{
	set_mask();
	return NULL;
}

static uint64_t get(void)
{
	return sum;
}

static void mutate(uint64_t n)
{
	sum += n;
	set_mask();
	workers_run(remask);
}

static const char *verify(void)
{
	struct sigaction sa;
	const char *bad;

	SVC_TRY(sigaction(SIGPIPE, NULL, &sa));
	if (sa.sa_handler != SIG_IGN)
		return "SIGPIPE is not ignored any more";
	SVC_TRY(sigaction(SIGUSR1, NULL, &sa));
	if (sa.sa_sigaction != on_signal || !(sa.sa_flags & SA_ONSTACK) || !sigismember(&sa.sa_mask, SIGUSR2))
		return "the disposition of SIGUSR1 has changed";
	bad = check(NULL);
	return bad ? bad : workers_run(check);
}

static const char *spoil_job(struct worker *w)
{
	sigset_t set;

	sigemptyset(&set);
	if (w->index == 2)
		pthread_sigmask(SIG_SETMASK, &set, NULL);
	return NULL;
}

static void spoil(void)
{
	workers_run(spoil_job);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK };

	sigaddset(&sa.sa_mask, SIGUSR2);
	SVC_TRY(sigaction(SIGUSR1, &sa, NULL));
	sa.sa_flags = SA_SIGINFO | SA_RESTART;
	SVC_TRY(sigaction(SIGRTMIN + 1, &sa, NULL));
	birth(NULL);
	workers_start(THREADS, birth);
	return svc_main(argc, argv, &ops);
}
