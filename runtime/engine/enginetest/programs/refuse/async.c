//: doc signal-driven input
//: object signal-driven I/O (O_ASYNC)
//: refuse socket:[: signal-driven I/O
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	int p[2];

	SVC_TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p));
	SVC_TRY(fcntl(p[0], F_SETFL, O_ASYNC));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
