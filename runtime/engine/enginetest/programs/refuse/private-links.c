//: doc a file in a private directory that has two names
//: object files of a private directory: with several names at adoption
//: private own
//: refuse private directory: 2 names (hard links)
//: engine kmod refused private directory: the same process
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	close(SVC_TRY(open("own/a", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
	SVC_TRY(link("own/a", "own/b"));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
