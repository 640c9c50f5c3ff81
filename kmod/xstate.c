// SPDX-License-Identifier: GPL-2.0
/*
 * Copies of the saved FPU and vector registers, which with all that a processor
 * has are 2.7 KiB, and 11 with AMX. Most threads use some hundred bytes of that:
 * XSTATE_BV says which components are not in their initial state (Intel SDM
 * volume 1, 13.4), and XRSTOR does not read the others, nor does the kernel.
 */
#include <linux/align.h>
#include <linux/bitops.h>
#include <linux/minmax.h>
#include <linux/string.h>

#include <asm/cpufeature.h>
#include <asm/processor.h>

#include "xstate.h"

#define CORSA_XSTATE_CPUID 0xd
#define CORSA_COMPACTED BIT_ULL(63)
/* Of x87 and SSE, and the header. */
#define CORSA_LEGACY_SIZE offsetof(struct xregs_state, extended_state_area)

static struct {
	u32 offset; /* in the standard format */
	u32 size;
	bool aligned; /* in the compacted one, to 64 bytes */
} components[XFEATURE_MAX];

void corsa_xstate_init(void)
{
	u32 eax, ebx, ecx, edx;
	int i;

	for (i = XFEATURE_YMM; i < XFEATURE_MAX; i++) {
		cpuid_count(CORSA_XSTATE_CPUID, i, &eax, &ebx, &ecx, &edx);
		components[i].size = eax;
		components[i].offset = ebx;
		components[i].aligned = ecx & BIT(1);
	}
}

/* The kernel keeps them elsewhere, so those in the image are stale. */
static u64 in_use(const struct xstate_header *header)
{
	return header->xfeatures & ~(u64)XFEATURE_MASK_PKRU;
}

/* How much of the compacted format there is up to the last one in use. */
static u32 compacted_end(const struct xstate_header *header)
{
	u64 there = header->xcomp_bv, used = in_use(header);
	u32 end = CORSA_LEGACY_SIZE, last = end;
	int i;

	for (i = XFEATURE_YMM; i < XFEATURE_MAX; i++) {
		if (!(there & BIT_ULL(i)))
			continue;
		if (components[i].aligned)
			end = ALIGN(end, 64);
		end += components[i].size;
		if (used & BIT_ULL(i))
			last = end;
	}
	return last;
}

void corsa_xstate_copy(union fpregs_state *to, const union fpregs_state *from,
		       u32 size)
{
	const struct xstate_header *header = &from->xsave.header;
	u64 used;
	int i;

	if (!boot_cpu_has(X86_FEATURE_XSAVE)) {
		memcpy(to, from, size);
		return;
	}
	if (header->xcomp_bv & CORSA_COMPACTED) {
		memcpy(to, from, min(size, compacted_end(header)));
		return;
	}
	memcpy(to, from, min_t(u32, size, CORSA_LEGACY_SIZE));
	used = in_use(header);
	for (i = XFEATURE_YMM; i < XFEATURE_MAX; i++)
		if (used & BIT_ULL(i) &&
		    components[i].offset + components[i].size <= size)
			memcpy((void *)to + components[i].offset,
			       (const void *)from + components[i].offset,
			       components[i].size);
}
