/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/unwind_hints.h>

/*
 * corsa_return_to_user(regs, exit_work, restore): what the end of ret_from_fork
 * does: exit_work(regs), then on to restore with regs on top of the stack. What
 * lies on the stack below regs is given up; nobody will need it again.
 *
 * Both are reached by RET: neither may begin with ENDBR, so an indirect jump
 * would be refused where IBT is on.
 */
	.text
SYM_CODE_START(corsa_return_to_user)
	UNWIND_HINT_FUNC
	ANNOTATE_NOENDBR
	movq	%rdi, %rsp
	UNWIND_HINT_REGS
	movq	%rdx, %rbx
	leaq	.Lexit_work_done(%rip), %rax
	pushq	%rax
	pushq	%rsi
	RET
	/* A return address is looked up by the instruction before it. */
	UNWIND_HINT_REGS
	nop
.Lexit_work_done:
	ANNOTATE_NOENDBR
	pushq	%rbx
	RET
SYM_CODE_END(corsa_return_to_user)
