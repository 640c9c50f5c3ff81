//: doc a log file open for appending
//: object files open for writing
//: refuse appended.log: it is open for writing
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	SVC_TRY(open("appended.log", O_WRONLY | O_APPEND | O_CREAT, 0600));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
