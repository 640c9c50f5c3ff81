//: doc a POSIX timer
//: object POSIX timers
//: refuse timer: POSIX timers are not copied
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	struct itimerspec far = { { 0, 0 }, { 1000000, 0 } };
	timer_t timer;

	SVC_TRY(timer_create(CLOCK_MONOTONIC, &(struct sigevent){ .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 }, &timer));
	SVC_TRY(timer_settime(timer, 0, &far, NULL));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
