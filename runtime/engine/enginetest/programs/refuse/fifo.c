//: doc a named pipe
//: object named pipes
//: refuse named.pipe: carries bytes from outside
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	SVC_TRY(mkfifo("named.pipe", 0600));
	SVC_TRY(open("named.pipe", O_RDWR | O_CLOEXEC));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
