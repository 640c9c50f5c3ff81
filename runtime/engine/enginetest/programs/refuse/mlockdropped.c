//: doc memory that was locked with privileges which are gone
//: object locks that could not be taken any more
//: refuse mapping: may not lock more than
//: engine kmod refused mapping: it is locked in memory
#include "svc.h"
#include "plain.h"
#include <sys/resource.h>

static void hold(void)
{
	struct rlimit none = { 4096, 4096 };

	SVC_TRY(mlock(mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 65536));
	SVC_TRY(setrlimit(RLIMIT_MEMLOCK, &none));
	SVC_TRY(setresgid(65534, 65534, 65534));
	SVC_TRY(setresuid(65534, 65534, 65534));
}

int main(int argc, char **argv)
{
	svc_bind(argc, argv, &plain_ops);
	hold();
	svc_epoll(0);
}
