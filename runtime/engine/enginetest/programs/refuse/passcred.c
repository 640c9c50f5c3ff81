//: doc a socket pair with something in it that says who has sent it
//: object credentials in flight (SO_PASSCRED)
//: refuse unix socket pair: says who has sent it
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	int p[2], one = 1;

	SVC_TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p));
	SVC_TRY(setsockopt(p[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
	SVC_TRY(send(p[0], "x", 1, 0));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
