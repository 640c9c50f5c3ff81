/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_EXIT_H
#define CORSA_EXIT_H

#include <linux/linkage.h>
#include <linux/types.h>

struct pt_regs;

/* False: this machine returns to user mode in a way that we do not know. */
bool corsa_exit_supported(void);
int corsa_exit_init(void);
void corsa_exit_exit(void);

/* return.S: current leaves the kernel with the registers in regs, for good. */
asmlinkage void corsa_return_to_user(struct pt_regs *regs, void *exit_work,
				     void *restore);

#endif
