//: doc a performance counter
//: object perf events
//: refuse perf_event: counts one process
#include "svc.h"
#include "plain.h"
#include <linux/perf_event.h>

static void hold(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = PERF_COUNT_SW_TASK_CLOCK };

	if (syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0) < 0)
		svc_lack("perf_event_open");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
