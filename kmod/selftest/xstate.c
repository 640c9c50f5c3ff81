// SPDX-License-Identifier: GPL-2.0
/*
 * corsa_xstate_copy() against a model that asks the processor about every byte
 * anew: what is in use arrives, in both formats; in the standard one nothing
 * else is touched.
 */
#include <linux/prandom.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include <asm/cpufeature.h>
#include <asm/processor.h>

#include "../xstate.h"

#define LEGACY (512 + 64)

static u32 horrible_ask(int component, int reg)
{
	u32 regs[4];

	cpuid_count(0xd, component, &regs[0], &regs[1], &regs[2], &regs[3]);
	return regs[reg];
}

static u32 horrible_offset(u64 xcomp_bv, int component)
{
	u32 end;
	int before;

	if (!(xcomp_bv >> 63))
		return horrible_ask(component, 1);
	for (before = component - 1; before >= 2; before--)
		if (xcomp_bv >> before & 1)
			break;
	end = before < 2 ? LEGACY :
			   horrible_offset(xcomp_bv, before) +
				   horrible_ask(before, 0);
	if (horrible_ask(component, 2) & 2)
		end = (end + 63) / 64 * 64;
	return end;
}

static bool horrible_in_use(const struct xstate_header *header, u32 byte)
{
	int i;

	if (byte < LEGACY)
		return true;
	for (i = 2; i < XFEATURE_MAX; i++) {
		u32 offset = horrible_offset(header->xcomp_bv, i);

		if (i != XFEATURE_PKRU && header->xfeatures >> i & 1 &&
		    byte >= offset && byte < offset + horrible_ask(i, 0))
			return true;
	}
	return false;
}

static bool agrees(union fpregs_state *to, union fpregs_state *from, u32 size)
{
	struct xstate_header *header = &from->xsave.header;
	bool standard = !(header->xcomp_bv >> 63);
	const u8 *a = (const u8 *)to, *b = (const u8 *)from;
	u32 i;

	memset(to, 0x5a, size);
	corsa_xstate_copy(to, from, size);
	for (i = 0; i < size; i++) {
		bool used = horrible_in_use(header, i);

		if (used ? a[i] == b[i] : !standard || a[i] == 0x5a)
			continue;
		pr_err("corsa: selftest xstate: byte %u of XSTATE_BV %llx, XCOMP_BV %llx is %s\n",
		       i, header->xfeatures, header->xcomp_bv,
		       used ? "missing" : "overwritten");
		return false;
	}
	return true;
}

bool corsa_xstate_selftest(void)
{
	struct fpstate *fpstate = current->thread.fpu.fpstate;
	u64 all = fpstate->xfeatures;
	u32 size = fpstate->size;
	union fpregs_state *from, *to;
	struct rnd_state random;
	bool ok = true;
	int i;

	if (!boot_cpu_has(X86_FEATURE_XSAVE))
		return true;
	/* As large as the standard format is, in which there may be gaps. */
	size = max(size, horrible_ask(0, 1));
	from = kmalloc(size, GFP_KERNEL);
	to = kmalloc(size, GFP_KERNEL);
	prandom_seed_state(&random, 1);
	for (i = 0; from && to && ok && i < 64; i++) {
		prandom_bytes_state(&random, from, size);
		from->xsave.header.xfeatures &= all;
		from->xsave.header.xcomp_bv = i % 2 ? all | BIT_ULL(63) : 0;
		ok = agrees(to, from, size);
	}
	if (ok && from && to)
		pr_info("corsa: selftest xstate: %d passed, components %llx\n",
			i, all);
	kfree(from);
	kfree(to);
	return ok && from && to;
}
