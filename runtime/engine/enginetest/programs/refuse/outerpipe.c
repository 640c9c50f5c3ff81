//: doc a pipe into which another process writes
//: object pipes from outside
//: refuse pipe:[: what is written to this pipe outside
#include "svc.h"
#include "plain.h"
#include "outside.h"

static void hold(void)
{
	int p[2];

	SVC_TRY(pipe2(p, O_CLOEXEC));
	outside(p[1], p[1]);
	close(p[1]);
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
