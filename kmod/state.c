// SPDX-License-Identifier: GPL-2.0
/* Memory for what of a thread belongs to a record. */
#include <linux/slab.h>

#include "swap.h"
#include "thread.h"

struct corsa_state *corsa_state_alloc_sized(struct corsa_thread *thread,
					    u32 fpu_size, gfp_t gfp)
{
	struct corsa_state *state;

	state = kzalloc(struct_size(state, fpu, fpu_size), gfp);
	if (!state)
		return NULL;
	state->thread = corsa_thread_get(thread);
	state->fpu_size = fpu_size;
	return state;
}

struct corsa_state *corsa_state_alloc(struct corsa_thread *thread, gfp_t gfp)
{
	return corsa_state_alloc_sized(
		thread, thread->task->thread.fpu.fpstate->size, gfp);
}

void corsa_state_assign(struct corsa_state *to, const struct corsa_state *from)
{
	size_t begin = offsetof(struct corsa_state, regs);

	memcpy((void *)to + begin, (const void *)from + begin,
	       struct_size(from, fpu, from->fpu_size) - begin);
}

void corsa_state_free(struct corsa_state *state)
{
	if (!state)
		return;
	corsa_thread_put(state->thread);
	kfree_rcu(state, rcu);
}
