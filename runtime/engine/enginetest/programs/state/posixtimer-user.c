//: doc POSIX timers of a service that has dropped its privileges, so that its threads get ids of their own
//: object POSIX timers
//: engine kmod refused timer: POSIX timers are not copied
#include "svc.h"
#include "timers.h"

static void drop(void)
{
	SVC_TRY(setresgid(65534, 65534, 65534));
	SVC_TRY(setresuid(65534, 65534, 65534));
}

int main(int argc, char **argv)
{
	return timers_main(argc, argv, drop);
}
