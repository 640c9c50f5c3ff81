//: doc a TCP listener on the loopback device and its connections
//: object apps' connections
//: listen tcp
#include "svc.h"
#include "region.h"

static uint64_t state[64];

int main(int argc, char **argv)
{
	region_add(state, sizeof(state), 8);
	return svc_main(argc, argv, &region_ops);
}
