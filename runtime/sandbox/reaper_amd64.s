// The reaper: the machine code of a container's pid 1. See reaper.go for what it does and why.
//
// This code never runs in our own process. reaper.go copies it into an ELF image of its own, so it refers to no
// Go symbol, uses no memory but its stack and the parameter block that the image holds at the fixed address
// const_reaperParams, and makes plain system calls only.

#include "textflag.h"
#include "go_asm.h"

// The end of a copied function. It is never executed.
#define END_MARK QUAD $const_reaperEndMark

#define SYS_WRITE          1
#define SYS_CLOSE          3
#define SYS_RT_SIGACTION   13
#define SYS_RT_SIGPROCMASK 14
#define SYS_RT_SIGRETURN   15
#define SYS_IOCTL          16
#define SYS_GETPID         39
#define SYS_CLONE          56
#define SYS_EXECVE         59
#define SYS_WAIT4          61
#define SYS_KILL           62
#define SYS_SETPGID        109
#define SYS_PRCTL          157
#define SYS_EXIT_GROUP     231

#define SIGKILL  9
#define SIGCHLD  17
#define SIGSTOP  19
#define LAST_SIG 64

#define SIG_SETMASK            2
#define SA_RESTORER_SA_RESTART 0x14000000
#define PR_SET_NAME            15
#define PR_SET_CHILD_SUBREAPER 36
#define TIOCSPGRP              0x5410
#define WALL                   0x40000000
#define ECHILD                 10
#define ENOENT                 2

// Stack: the original signal mask, a scratch word, a struct sigaction.
#define OLDMASK 0(SP)
#define SCRATCH 8(SP)
#define ACTION  16(SP)
#define FRAME   48

// Registers that live through all system calls:
//	R15 the initial stack: argc, argv...
//	R12 pid of the program
//	R14 parameter block

// func reaperMain()
TEXT reaperMain<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVQ SP, R15
	SUBQ $FRAME, SP
	MOVL $const_reaperParams, R14

	// Visible in ps; otherwise the name would be that of the descriptor.
	MOVL $SYS_PRCTL, AX
	MOVL $PR_SET_NAME, DI
	LEAQ const_paramName(R14), SI
	SYSCALL

	// Where the container has no pid namespace of its own, orphans still come to us.
	MOVL $SYS_PRCTL, AX
	MOVL $PR_SET_CHILD_SUBREAPER, DI
	MOVL $1, SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	SYSCALL

	// The descriptor that we were executed through.
	MOVL $SYS_CLOSE, AX
	MOVL const_paramFD(R14), DI
	SYSCALL

	// An inherited SIG_IGN would make the kernel reap, and the program's exit status would be lost.
	XORL AX, AX
	MOVQ AX, 16(SP)
	MOVQ AX, 24(SP)
	MOVQ AX, 32(SP)
	MOVQ AX, 40(SP)
	MOVL $SYS_RT_SIGACTION, AX
	MOVL $SIGCHLD, DI
	LEAQ ACTION, SI
	XORL DX, DX
	MOVL $8, R10
	SYSCALL

	// Block every signal until R12 says whom to forward it to.
	MOVQ $-1, AX
	MOVQ AX, SCRATCH
	MOVL $SYS_RT_SIGPROCMASK, AX
	MOVL $SIG_SETMASK, DI
	LEAQ SCRATCH, SI
	LEAQ OLDMASK, DX
	MOVL $8, R10
	SYSCALL

	// fork(); clone since that is what every seccomp profile allows.
	MOVL $SYS_CLONE, AX
	MOVL $SIGCHLD, DI
	XORL SI, SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	SYSCALL
	TESTQ AX, AX
	JEQ child
	JLT fail
	MOVL AX, R12

	// Forward all signals but SIGCHLD. For the two that cannot be caught the kernel says EINVAL.
	MOVQ $const_reaperForward, AX
	MOVQ AX, 16(SP)
	MOVQ AX, 32(SP)
	MOVQ $SA_RESTORER_SA_RESTART, AX
	MOVQ AX, 24(SP)
	MOVQ $-1, AX
	MOVQ AX, 40(SP)
	MOVL $1, BX
next:
	CMPL BX, $SIGCHLD
	JEQ skip
	MOVL $SYS_RT_SIGACTION, AX
	MOVL BX, DI
	LEAQ ACTION, SI
	XORL DX, DX
	MOVL $8, R10
	SYSCALL
skip:
	INCL BX
	CMPL BX, $LAST_SIG
	JLE next

	XORL AX, AX
	MOVQ AX, SCRATCH
	MOVL $SYS_RT_SIGPROCMASK, AX
	MOVL $SIG_SETMASK, DI
	LEAQ SCRATCH, SI
	XORL DX, DX
	MOVL $8, R10
	SYSCALL

	// A blocking wait rather than one driven by SIGCHLD, and __WALL: a child is reaped whatever its exit signal is.
	// Linux gives a sibling made with CLONE_PARENT its maker's, which is SIGCHLD; nothing here depends on that.
wait:
	MOVL $SYS_WAIT4, AX
	MOVQ $-1, DI
	LEAQ SCRATCH, SI
	MOVL $WALL, DX
	XORL R10, R10
	SYSCALL
	CMPQ AX, $-ECHILD
	JEQ fail
	CMPQ AX, R12
	JNE wait

	MOVL SCRATCH, DI
	MOVL DI, AX
	ANDL $0x7f, AX
	JEQ exited
	LEAL 128(AX), DI
	JMP exit
exited:
	SHRL $8, DI
	ANDL $0xff, DI
exit:
	MOVL $SYS_EXIT_GROUP, AX
	SYSCALL

fail:
	MOVL $const_reaperFailed, DI
	JMP exit

child:
	// A process group of its own in the foreground of the terminal, if there is one: otherwise ^C would reach
	// the program twice, by the terminal and by us. SIGTTOU is still blocked.
	MOVL $SYS_SETPGID, AX
	XORL DI, DI
	XORL SI, SI
	SYSCALL
	MOVL $SYS_GETPID, AX
	SYSCALL
	MOVQ AX, SCRATCH
	MOVL $SYS_IOCTL, AX
	XORL DI, DI
	MOVL $TIOCSPGRP, SI
	LEAQ SCRATCH, DX
	SYSCALL

	MOVL $SYS_RT_SIGPROCMASK, AX
	MOVL $SIG_SETMASK, DI
	LEAQ OLDMASK, SI
	XORL DX, DX
	MOVL $8, R10
	SYSCALL

	// argv[0] is ours, the rest the program's. The environment follows argv's terminating null.
	MOVQ 0(R15), CX
	MOVQ const_paramPath(R14), DI
	LEAQ 16(R15), SI
	LEAQ 16(R15)(CX*8), DX
	MOVL $SYS_EXECVE, AX
	SYSCALL

	// The shell's convention: 127 is not found, 126 is not executable.
	MOVL $126, BX
	CMPQ AX, $-ENOENT
	JNE report
	MOVL $127, BX
report:
	MOVL $SYS_WRITE, AX
	MOVL $2, DI
	MOVQ const_paramMessage(R14), SI
	MOVL const_paramMessageLen(R14), DX
	SYSCALL
	MOVL BX, DI
	JMP exit
	END_MARK

// The signal handler, at const_reaperForward. The interrupted code's R12 is still in place. It returns by itself:
// the kernel's frame begins above the return address.
// func reaperForward(sig)
TEXT reaperForward<>(SB), NOSPLIT|NOFRAME, $0
	MOVL DI, SI
	MOVL R12, DI
	MOVL $SYS_KILL, AX
	SYSCALL
	ADDQ $8, SP
	MOVL $SYS_RT_SIGRETURN, AX
	SYSCALL
	END_MARK

// func reaperText() (entry, forward *byte)
TEXT ·reaperText(SB), NOSPLIT, $0-16
	LEAQ reaperMain<>(SB), AX
	MOVQ AX, main+0(FP)
	LEAQ reaperForward<>(SB), AX
	MOVQ AX, forward+8(FP)
	RET
