//: doc x87, MXCSR, SSE, AVX and AVX-512 registers held across blocking system calls
//: object registers to AVX-512
#include "svc.h"
#include "xstate.h"
#include <linux/futex.h>
#include <poll.h>

enum { THREADS = 6 };

static struct holder {
	struct xstate x;
	long nr, args[4];
	struct timespec nap;
	uint64_t laps;
	const char *bad;
	int index;
} holders[THREADS];

static uint64_t sum;
static int spoilt, word; /* word: a futex that never changes */
static struct pollfd nothing = { .fd = -1 };

/* held_call makes the system call while the registers hold h's pattern. */
static long held_call(struct holder *h)
{
	register long r10 __asm__("r10") = h->args[3];
	long ret;

	XSTATE_HOLD(&h->x, "mov %[nr], %%rax\n\tmov %[arg2], %%rdx\n\tsyscall\n\tmov %%rax, (%[ret])", [nr] "r"(h->nr),
		    "D"(h->args[0]), "S"(h->args[1]), [arg2] "r"(h->args[2]), "r"(r10), [ret] "r"(&ret));
	return ret;
}

static void *hold(void *arg)
{
	struct holder *h = arg;

	for (;;) {
		h->nap = (struct timespec){ 0, h->index & 1 ? 20000000 : 2000000 }; /* ppoll changes it */
		xstate_fill(&h->x, sum * 8 + h->index + 1);
		if (held_call(h) == -EINTR)
			__atomic_add_fetch(&svc_eintr_count, 1, __ATOMIC_RELAXED);
		if (spoilt)
			h->x.want[200]++;
		if (!h->bad)
			h->bad = xstate_compare(&h->x);
		__atomic_add_fetch(&h->laps, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static uint64_t get(void)
{
	return sum;
}

static void mutate(uint64_t n)
{
	sum += n;
	syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1000);
}

static const char *verify(void)
{
	for (int i = 0; i < THREADS; i++) {
		struct holder *h = &holders[i];
		uint64_t before = __atomic_load_n(&h->laps, __ATOMIC_ACQUIRE);

		if (!SVC_WAIT(__atomic_load_n(&h->laps, __ATOMIC_ACQUIRE) >= before + 2))
			return svc_fail("thread %d stands still", i);
		if (h->bad)
			return svc_fail("thread %d lost %s in system call %ld", i, h->bad, h->nr);
	}
	return NULL;
}

static void spoil(void)
{
	spoilt = 1;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	pthread_t th;

	for (int i = 0; i < THREADS; i++) {
		struct holder *h = &holders[i];
		struct timespec *ts = &h->nap;

		h->index = i;
		if (i < 2) {
			h->nr = SYS_nanosleep;
			h->args[0] = (long)ts;
		} else if (i < 4) {
			h->nr = SYS_futex;
			h->args[0] = (long)&word;
			h->args[1] = FUTEX_WAIT_PRIVATE;
			h->args[2] = 0;
			h->args[3] = (long)ts;
		} else {
			h->nr = SYS_ppoll;
			h->args[0] = (long)&nothing;
			h->args[1] = 1;
			h->args[2] = (long)ts;
		}
		if (pthread_create(&th, NULL, hold, h))
			svc_die("pthread_create");
	}
	return svc_main(argc, argv, &ops);
}
