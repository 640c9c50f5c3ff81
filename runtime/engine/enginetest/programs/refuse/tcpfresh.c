//: doc a TCP socket that is neither connected nor listening
//: object sockets neither connected nor listening
//: refuse tcp socket: neither connected nor listening
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	SVC_TRY(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
