/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_REGISTERS_H
#define CORSA_REGISTERS_H

struct corsa_state;

/*
 * Both work on current, in the kernel: general registers, segments and their
 * bases, FPU and vector state, protection keys.
 */
void corsa_registers_save(struct corsa_state *state);
void corsa_registers_load(const struct corsa_state *state);

#endif
