//: doc .data, .bss, and a page of constants made writable
//: object static data
#include "svc.h"
#include "region.h"

static uint64_t data[4096] = { 1, 2, 3 };
static uint64_t bss[65536];
static const uint64_t constants[1024] __attribute__((aligned(4096))) = { 1 };

int main(int argc, char **argv)
{
	SVC_TRY(mprotect((void *)constants, sizeof(constants), PROT_READ | PROT_WRITE));
	region_add(data, sizeof(data), 8);
	region_add(bss, sizeof(bss), 64);
	region_add((void *)constants, sizeof(constants), 8);
	return svc_main(argc, argv, &region_ops);
}
