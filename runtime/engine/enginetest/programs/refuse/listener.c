//: doc a listening socket that was not declared
//: listen unix,unix
//: declare 1
//: object undeclared listeners
//: refuse listening: it is not declared
#include "svc.h"
#include "plain.h"

static void hold(void)
{
	/* the second listener of the command line is the one */
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
