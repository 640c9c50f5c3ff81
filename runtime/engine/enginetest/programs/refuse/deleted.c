//: doc a file that has been deleted
//: object deleted files
//: refuse temporary.data (deleted): the file was deleted
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	SVC_TRY(open("temporary.data", O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
	SVC_TRY(unlink("temporary.data"));
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
