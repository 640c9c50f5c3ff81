//: doc a connection of the service to its own socket
//: object connections of the service to itself
//: refuse unix stream connection to itself: to its own listening socket
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "own" };
	int l = SVC_TRY(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), c;

	SVC_TRY(bind(l, (struct sockaddr *)&a, sizeof(a)));
	SVC_TRY(listen(l, 1));
	c = SVC_TRY(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	SVC_TRY(connect(c, (struct sockaddr *)&a, sizeof(a)));
	SVC_TRY(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	close(l);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
