//: doc a POSIX timer of the CPU time of a thread
//: object POSIX timers of a thread's clock
//: refuse timer 0: its clock belongs to one thread
//: engine kmod refused timer: POSIX timers are not copied
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	timer_t t;

	SVC_TRY(timer_create(CLOCK_THREAD_CPUTIME_ID, &(struct sigevent){ .sigev_notify = SIGEV_NONE }, &t));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
