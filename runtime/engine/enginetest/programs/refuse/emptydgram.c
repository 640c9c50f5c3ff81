//: doc a socket pair with an empty message in it
//: object empty messages in socket pairs
//: refuse unix socket pair: cannot be looked at
//: engine kmod refused socket pair: only stream socket pairs are copied
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	int p[2];

	SVC_TRY(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, p));
	SVC_TRY(send(p[0], "x", 1, 0));
	SVC_TRY(send(p[0], "", 0, 0));
	SVC_TRY(send(p[0], "y", 1, 0));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
