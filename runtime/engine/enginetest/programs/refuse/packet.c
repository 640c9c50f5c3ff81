//: doc a packet socket
//: object netlink and other families
//: refuse packet socket: cannot be copied
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	if (socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0) < 0)
		svc_lack("AF_PACKET");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
