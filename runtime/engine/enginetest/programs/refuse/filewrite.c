//: doc a regular file open for writing
//: object files open for writing
//: refuse written.data: it is open for writing
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	SVC_TRY(open("written.data", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
