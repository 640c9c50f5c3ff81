//: doc a BPF map
//: object BPF objects
//: refuse bpf-map: common to all instances
#include "svc.h"
#include "plain.h"
#include <linux/bpf.h>

static void hold(void)
{
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };

	if (syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)) < 0)
		svc_lack("bpf");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
