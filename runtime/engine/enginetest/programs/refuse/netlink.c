//: doc a netlink socket
//: object netlink and other families
//: refuse netlink socket: cannot be copied
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	SVC_TRY(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
