//: doc eventfds: the state is a counter; another is a semaphore
//: object eventfd, semaphores too
#include "svc.h"
#include <sys/eventfd.h>

static int counter, semaphore;

/* peek reads a non-blocking eventfd and writes the value back. */
static uint64_t peek(int fd)
{
	uint64_t value;

	if (SVC_COUNT(read(fd, &value, 8)) != 8)
		return 0;
	if (write(fd, &value, 8) != 8)
		svc_die("eventfd");
	return value;
}

static uint64_t get(void)
{
	return peek(counter);
}

static void mutate(uint64_t n)
{
	if (write(counter, &n, 8) != 8)
		svc_die("eventfd");
}

static const char *verify(void)
{
	uint64_t left = 0, value;

	while (SVC_COUNT(read(semaphore, &value, 8)) == 8)
		left += value == 1 ? 1 : 1000;
	value = 5;
	if (write(semaphore, &value, 8) != 8)
		svc_die("eventfd");
	return left == 5 ? NULL : svc_fail("the semaphore held %llu", (unsigned long long)left);
}

static void spoil(void)
{
	peek(semaphore); /* takes one and puts one back */
	SVC_TRY(read(semaphore, &(uint64_t){ 0 }, 8));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	counter = SVC_TRY(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	semaphore = SVC_TRY(eventfd(5, EFD_NONBLOCK | EFD_CLOEXEC | EFD_SEMAPHORE));
	return svc_main(argc, argv, &ops);
}
