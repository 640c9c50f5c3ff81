//: doc event loop: one-shot epoll
//: object apps' connections
//: listen unix,unix
#include "svc.h"
#include "region.h"

static uint64_t state[512];

int main(int argc, char **argv)
{
	region_add(state, sizeof(state), 8);
	svc_bind(argc, argv, &region_ops);
	svc_epoll(EPOLLONESHOT);
}
