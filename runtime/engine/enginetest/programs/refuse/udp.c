//: doc a UDP socket
//: object UDP
//: refuse udp: datagrams are not connections
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = SVC_TRY(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	SVC_TRY(bind(fd, (struct sockaddr *)&a, sizeof(a)));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
