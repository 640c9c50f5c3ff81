//: doc guard pages: touching one is a SIGSEGV that the service handles, and what lies behind one that was opened is kept
//: object guard pages, and memory that grows down
#include "svc.h"
#include "region.h"
#include <setjmp.h>

enum { PAGE = 4096, PAGES = 64 };

static char *base, *down;
static sigjmp_buf back;
static int low = PAGES / 2, edge = PAGES / 2; /* the guard page is the one at edge */

static void on_fault(int sig, siginfo_t *info, void *context)
{
	if (info->si_addr != base + edge * PAGE)
		_exit(11); /* not what was tried */
	siglongjmp(back, 1);
}

/* guarded touches the guard page: 1: it is one. */
static int guarded(void)
{
	if (sigsetjmp(back, 1))
		return 1;
	*(volatile char *)(base + edge * PAGE) = 1;
	return 0;
}

static void mutate(uint64_t n)
{
	region_mutate(n);
	if (edge == 1)
		return;
	SVC_TRY(mprotect(base + edge * PAGE, PAGE, PROT_READ | PROT_WRITE));
	region_add(base + edge * PAGE, PAGE, 64);
	region_mutate(0);
	edge--;
	SVC_TRY(mprotect(base + edge * PAGE, PAGE, PROT_NONE));
	down[-PAGE * (low - edge) + 1] = 'd'; /* one page further down */
}

static const char *verify(void)
{
	if (guarded() != 1)
		return svc_fail("page %d does not guard", edge);
	for (int i = 1; i <= low - edge; i++)
		if (down[-PAGE * i + 1] != 'd')
			return svc_fail("page %d of the memory that grows down is not what it was", i);
	return region_verify();
}

static void spoil(void)
{
	SVC_TRY(mprotect(base + edge * PAGE, PAGE, PROT_READ | PROT_WRITE));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { region_get, mutate, verify, spoil, NULL };
	struct sigaction a = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t stack = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };

	SVC_TRY(sigaltstack(&stack, NULL));
	SVC_TRY(sigaction(SIGSEGV, &a, NULL));
	base = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	region_add(base + (edge + 1) * PAGE, PAGE, 64);
	SVC_TRY(mprotect(base + edge * PAGE, PAGE, PROT_NONE));
	/* Room for it to grow into, with something below that keeps others away. */
	down = mmap(NULL, PAGE * 1024, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	SVC_TRY(munmap(down + PAGE * 512, PAGE * 512));
	down = mmap(down + PAGE * 1000, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
	if (down == MAP_FAILED)
		svc_lack("MAP_GROWSDOWN");
	return svc_main(argc, argv, &ops);
}
