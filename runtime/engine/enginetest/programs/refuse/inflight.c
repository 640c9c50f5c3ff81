//: doc a descriptor on its way through a socket pair
//: object descriptors in flight
//: refuse unix stream socket: descriptors are in flight
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	char data = 'x', control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &data, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	int p[2];

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	SVC_TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p));
	SVC_TRY(sendmsg(p[0], &msg, 0));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
