//: doc a socket whose other end is in another process
//: object connections to others
//: refuse unix stream socket to: connected to a peer outside
#include "svc.h"
#include "plain.h"
#include "outside.h"

static void hold(void)
{
	int p[2];

	SVC_TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p));
	outside(p[1], p[1]);
	close(p[1]);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
