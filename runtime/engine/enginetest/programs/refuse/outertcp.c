//: doc a TCP connection to another process
//: object connections to others
//: refuse tcp 127.0.0.1: connected to a peer outside
#include "svc.h"
#include "plain.h"
#include "outside.h"

static void hold(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int l = SVC_TRY(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), c, s;

	SVC_TRY(bind(l, (struct sockaddr *)&a, len));
	SVC_TRY(listen(l, 1));
	SVC_TRY(getsockname(l, (struct sockaddr *)&a, &len));
	c = SVC_TRY(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	SVC_TRY(connect(c, (struct sockaddr *)&a, len));
	s = SVC_TRY(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	outside(s, s);
	close(s);
	close(l);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
