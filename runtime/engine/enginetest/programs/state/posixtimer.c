//: doc POSIX timers: one that signals the process, one a thread, one nobody; the state is in an interval
//: object POSIX timers
//: engine kmod refused timer: POSIX timers are not copied
#include "svc.h"
#include "timers.h"

int main(int argc, char **argv)
{
	return timers_main(argc, argv, NULL);
}
