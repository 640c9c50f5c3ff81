//: doc a signalfd with its mask
//: object signalfd
#include "svc.h"
#include "sum.h"
#include <sys/signalfd.h>

static int sfd;

static const char *verify(void)
{
	struct signalfd_siginfo info;
	union sigval value = { .sival_int = 77 };

	for (int i = 0; i < 2; i++) {
		SVC_TRY(sigqueue(getpid(), i ? SIGRTMIN + 4 : SIGUSR2, value));
		if (SVC_COUNT(read(sfd, &info, sizeof(info))) != sizeof(info))
			return "the signal does not arrive";
		if (info.ssi_signo != (uint32_t)(i ? SIGRTMIN + 4 : SIGUSR2) || info.ssi_int != 77)
			return svc_fail("signal %u arrived with %d", info.ssi_signo, info.ssi_int);
	}
	return NULL;
}

static void spoil(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	SVC_TRY(signalfd(sfd, &set, 0));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGRTMIN + 4);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sfd = SVC_TRY(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
	return svc_main(argc, argv, &ops);
}
