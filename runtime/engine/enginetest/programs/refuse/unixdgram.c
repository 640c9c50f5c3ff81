//: doc a unix datagram socket with a name
//: object unix datagram sockets with a name
//: refuse unix datagram socket: datagrams are not connections
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "datagrams" };
	int fd = SVC_TRY(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	SVC_TRY(bind(fd, (struct sockaddr *)&a, sizeof(a)));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
