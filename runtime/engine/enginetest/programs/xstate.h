/*
 * xstate.h: fills every register of the x87, SSE, AVX and AVX-512 units that the machine has with a pattern, does
 * something that must not change them, and compares. XRSTOR and XSAVE reach all of them, MXCSR and the x87 control
 * word included, so nothing depends on the instruction set that the compiler may use.
 */
#ifndef XSTATE_H
#define XSTATE_H
#if !defined(__x86_64__)
#error "xstate.h is written for x86-64"
#endif

#include <cpuid.h>

enum {
	XSTATE_BYTES = 4096,
	XSTATE_WANT = 0xe7, /* x87, SSE, AVX, opmask, upper ZMM, ZMM16-31 */
	XSTATE_MXCSR = 0x5f80, /* all masked, round up */
	XSTATE_FCW = 0x0e7f, /* all masked, truncate, double precision */
};

struct xstate {
	uint8_t want[XSTATE_BYTES];
	uint8_t got[XSTATE_BYTES];
	uint64_t mask;
} __attribute__((aligned(64)));

static uint64_t xstate_mask(void)
{
	uint32_t a, b, c, d, lo, hi;

	__cpuid_count(1, 0, a, b, c, d);
	if (!(c & bit_OSXSAVE)) {
		fprintf(stderr, "this processor has no XSAVE\n");
		exit(1);
	}
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo & XSTATE_WANT;
}

/* xstate_component says where component i lies in the standard format. */
static void xstate_component(int i, uint32_t *at, uint32_t *bytes)
{
	uint32_t c, d;

	*at = *bytes = 0;
	if (i >= 2)
		__cpuid_count(0xd, i, *bytes, *at, c, d);
}

static const uint32_t xstate_plain_mxcsr = 0x1f80;

/* xstate_fill chooses the pattern for seed. */
static void xstate_fill(struct xstate *x, uint64_t seed)
{
	uint32_t at, bytes;

	memset(x->want, 0, sizeof(x->want));
	x->mask = xstate_mask();
	*(uint16_t *)(x->want + 0) = XSTATE_FCW;
	x->want[4] = 0xff; /* eight x87 registers in use */
	*(uint32_t *)(x->want + 24) = XSTATE_MXCSR;
	for (int i = 0; i < 8; i++) {
		*(uint64_t *)(x->want + 32 + 16 * i) = seed * 77 + i + (1ull << 63); /* a normal number */
		*(uint16_t *)(x->want + 40 + 16 * i) = 0x3fff + i;
	}
	for (int i = 160; i < 416; i++)
		x->want[i] = seed * 13 + i;
	for (int i = 2; i < 8; i++) {
		xstate_component(i, &at, &bytes);
		if (!(x->mask >> i & 1) || at + bytes > XSTATE_BYTES)
			continue;
		for (uint32_t k = 0; k < bytes; k++)
			x->want[at + k] = seed * 31 + k * 5 + i;
	}
	*(uint64_t *)(x->want + 512) = x->mask;
}

/*
 * XSTATE_HOLD puts the pattern into the registers around the instructions in body, which may change rax, rcx, rdx
 * and r11, and takes further operands. Afterwards the units are as the ABI wants them.
 */
#define XSTATE_HOLD(x, body, ...) \
	__asm__ volatile("mov %[lo], %%eax\n\txor %%edx, %%edx\n\txrstor64 (%[want])\n\t" body \
			 "\n\tmov %[lo], %%eax\n\txor %%edx, %%edx\n\txsave64 (%[got])\n\tfninit\n\tldmxcsr %[plain]" \
			 : \
			 : [want] "r"((x)->want), [got] "r"((x)->got), [lo] "r"((uint32_t)(x)->mask), \
			   [plain] "m"(xstate_plain_mxcsr), ##__VA_ARGS__ \
			 : "memory", "cc", "rax", "rcx", "rdx", "r11", XSTATE_REGISTERS)

#define XSTATE_REGISTERS \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
		"xmm13", "xmm14", "xmm15", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)"

/* xstate_compare returns what differs, or NULL. */
static const char *xstate_compare(const struct xstate *x)
{
	static const char *names[] = { "x87", "XMM", "YMM", "", "", "opmask", "ZMM", "ZMM16-31" };
	uint32_t at, bytes;

	if (*(const uint16_t *)x->got != XSTATE_FCW || x->got[4] != 0xff)
		return "the x87 control or tag word";
	if (*(const uint32_t *)(x->got + 24) != XSTATE_MXCSR)
		return "MXCSR";
	for (int i = 0; i < 8; i++)
		if (memcmp(x->want + 32 + 16 * i, x->got + 32 + 16 * i, 10))
			return names[0];
	if (memcmp(x->want + 160, x->got + 160, 256))
		return names[1];
	for (int i = 2; i < 8; i++) {
		xstate_component(i, &at, &bytes);
		if (x->mask >> i & 1 && at + bytes <= XSTATE_BYTES && memcmp(x->want + at, x->got + at, bytes))
			return names[i];
	}
	return NULL;
}

#endif
