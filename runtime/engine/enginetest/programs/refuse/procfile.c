//: doc a file of procfs about the service itself
//: object files of /proc/PID
//: refuse /proc/: it shows the process that it was opened for
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	SVC_TRY(open("/proc/self/stat", O_RDONLY | O_CLOEXEC));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
