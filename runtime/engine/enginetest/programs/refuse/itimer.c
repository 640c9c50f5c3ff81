//: doc an interval timer that is armed
//: object interval timers
//: refuse timer: an instance would not inherit it
//: engine kmod refused timer: keeps it for the process as a whole
#include "svc.h"
#include "plain.h"
#include <sys/time.h>

static void hold(void)
{
	struct itimerval far = { { 0, 0 }, { 1000000, 0 } };

	SVC_TRY(setitimer(ITIMER_REAL, &far, NULL));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
