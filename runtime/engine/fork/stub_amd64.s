#include "textflag.h"

// The stub is the only code of corsa that runs inside a service. It is position independent, uses no stack and
// touches no memory but the context in R12, the entries of its batch and the control page in R15. stub.go
// copies the text between ·stub and its end marker into the arena; layout.go has the offsets used here.
//
//	R12 context   R15 control page   BX entry   R13 entries left   R14 context of a child
//
// A context is run from `start`: first its batch of system calls, then, for an agent, the wait for the next
// command, or, for a thread, the wait to be activated, which ends in rt_sigreturn. Whatever happens to the
// engine meanwhile, a thread therefore ends up in the state that its frame holds.

#define CTX_BATCH  0
#define CTX_N      8
#define CTX_KIND   16
#define CTX_CTL    24
#define CTX_SEQ    32
#define CTX_PARKED 36
#define CTX_FAILED 40
#define CTX_FRAME  48
#define CTX_LIMIT  56

#define ENT_NR     0
#define ENT_ARG    8
#define ENT_RET    56
#define ENT_REF    64
#define ENT_KIND   76
#define ENT_FLAGS  77
#define ENT_DEREF  78
#define ENT_CHILD  80
#define ENT_SIZE   96

#define CTL_CMD    0
#define CTL_DONE   64
#define CTL_RUN    128
#define CTL_TERM   192

#define SYS_rt_sigreturn 15
#define SYS_futex        202
#define SYS_exit_group   231

// ARG loads argument i of the entry into reg: an immediate, the result of an earlier entry, or an int in memory.
#define ARG(i, reg) \
	MOVQ    (ENT_ARG+8*i)(BX), reg; \
	MOVWLZX (ENT_REF+2*i)(BX), AX; \
	TESTL   AX, AX; \
	JZ      4(PC); \
	IMUL3Q  $ENT_SIZE, AX, AX; \
	ADDQ    CTX_BATCH(R12), AX; \
	MOVQ    (ENT_RET-ENT_SIZE)(AX), reg; \
	MOVBLZX ENT_DEREF(BX), AX; \
	TESTL   $(1<<i), AX; \
	JZ      2(PC); \
	MOVLQSX (reg), reg

TEXT ·stub(SB), NOSPLIT|NOFRAME, $0
start:
	MOVQ CTX_CTL(R12), R15
	MOVQ CTX_BATCH(R12), BX
	MOVQ CTX_N(R12), R13
	MOVQ $0, CTX_FAILED(R12)

next:
	TESTQ R13, R13
	JZ    batchdone
	ARG(0, DI)
	ARG(1, SI)
	ARG(2, DX)
	ARG(3, R10)
	ARG(4, R8)
	ARG(5, R9)
	MOVQ ENT_CHILD(BX), R14
	CMPB ENT_KIND(BX), $2
	JEQ  copy
	CMPB ENT_KIND(BX), $1
	JEQ  clone
	MOVQ ENT_NR(BX), AX
	SYSCALL

result:
	MOVQ AX, ENT_RET(BX)
	CMPQ AX, $-4095
	JCS  advance              // unsigned below: not an errno
	TESTB $1, ENT_FLAGS(BX)
	JZ   advance
	MOVQ R13, CTX_FAILED(R12) // entries left, the failed one included
	JMP  batchdone

clone:
	MOVQ  ENT_NR(BX), AX
	SYSCALL
	TESTQ AX, AX
	JNZ   result
	MOVQ  R14, R12            // the child: it must not look at the parent's context or batch any more,
	JMP   start               // which may already hold the next command

copy:
	MOVQ DX, CX
	REP; MOVSB
	MOVQ $0, ENT_RET(BX)

advance:
	ADDQ $ENT_SIZE, BX
	DECQ R13
	JMP  next

batchdone:
	CMPQ CTX_KIND(R12), $1
	JEQ  thread

	// Agent: report, then wait until the command counter moves on.
	MOVL CTX_SEQ(R12), AX
	INCL AX
	MOVL AX, CTX_SEQ(R12)
	XCHGL AX, CTL_DONE(R15)
	LEAQ CTL_DONE(R15), DI
	MOVL $1, SI               // FUTEX_WAKE
	MOVL $1, DX
	MOVL $SYS_futex, AX
	SYSCALL

agentwait:
	MOVL CTL_CMD(R15), DX
	CMPL DX, CTX_SEQ(R12)
	JNE  start
	LEAQ CTL_CMD(R15), DI
	XORL SI, SI               // FUTEX_WAIT
	XORL R10, R10
	CMPL CTL_TERM(R15), $0    // on probation: end if nobody takes it over in time
	JEQ  settled
	LEAQ CTX_LIMIT(R12), R10

settled:
	MOVL $SYS_futex, AX
	SYSCALL
	CMPQ AX, $-110            // ETIMEDOUT
	JNE  agentwait
	CMPL CTL_TERM(R15), $0
	JEQ  agentwait
	XORL DI, DI
	MOVL $SYS_exit_group, AX
	SYSCALL

thread:
	MOVL $1, CTX_PARKED(R12)

threadwait:
	MOVL CTL_RUN(R15), DX
	CMPL DX, $1
	JEQ  go
	LEAQ CTL_RUN(R15), DI
	XORL SI, SI
	XORL R10, R10
	CMPL DX, $2               // provisional: run on if nobody commits in time
	JNE  nolimit
	LEAQ CTX_LIMIT(R12), R10

nolimit:
	MOVL $SYS_futex, AX
	SYSCALL
	CMPQ AX, $-110            // ETIMEDOUT
	JNE  threadwait
	CMPL CTL_RUN(R15), $2
	JNE  threadwait

go:
	MOVL $0, CTX_PARKED(R12)
	MOVQ CTX_FRAME(R12), SP
	MOVL $SYS_rt_sigreturn, AX
	SYSCALL
	BYTE $0xF4                // HLT: rt_sigreturn does not return
	QUAD $0x444e452d42555453  // end marker, "STUB-END"

// func stubText() *byte
TEXT ·stubText(SB), NOSPLIT, $0-8
	LEAQ ·stub(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func pause()
TEXT ·pause(SB), NOSPLIT, $0
	PAUSE
	RET

// func cpuid(leaf, sub uint32) (a, b, c, d uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL sub+4(FP), CX
	CPUID
	MOVL AX, a+8(FP)
	MOVL BX, b+12(FP)
	MOVL CX, c+16(FP)
	MOVL DX, d+20(FP)
	RET
