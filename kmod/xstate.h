/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_XSTATE_H
#define CORSA_XSTATE_H

#include <asm/fpu/types.h>

/* Asks the processor where the components lie. */
void corsa_xstate_init(void);

/*
 * Copies what is in use. size: of both. What is not in use has its initial
 * value, whatever lies in its place, so its place in `to` is left as it is.
 */
void corsa_xstate_copy(union fpregs_state *to, const union fpregs_state *from,
		       u32 size);

#ifdef CORSA_DEBUG
bool corsa_xstate_selftest(void);
#endif

#endif
