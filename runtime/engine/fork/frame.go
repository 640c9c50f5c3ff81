package fork

import "encoding/binary"

// Offsets in struct ucontext (arch/x86/include/uapi/asm/sigcontext.h, asm-generic/ucontext.h).
const (
	ucFlags     = 0
	ucStackMode = 24 // uc_stack.ss_flags
	ucRegs      = 40
	ucFpstate   = 224
	ucSigmask   = 296

	ucAllFlags = 7      // UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
	ssInvalid  = 0x7fff // no such mode: rt_sigreturn then leaves the alternate stack as it is
)

// putUcontext writes the ucontext from which rt_sigreturn restores r and mask into b, which lies at slotFrame of
// a slot; the extended state is at fpstate.
func putUcontext(b []byte, r *regs, mask, fpstate uint64) {
	le := binary.LittleEndian
	clear(b[:ucSigmask+8])
	le.PutUint64(b[ucFlags:], ucAllFlags)
	le.PutUint32(b[ucStackMode:], ssInvalid)
	for i, v := range [...]uint64{
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15,
		r.Rdi, r.Rsi, r.Rbp, r.Rbx, r.Rdx, r.Rax, r.Rcx, r.Rsp, r.Rip, r.Eflags,
	} {
		le.PutUint64(b[ucRegs+8*i:], v)
	}
	le.PutUint16(b[ucRegs+144:], uint16(r.Cs))
	le.PutUint16(b[ucRegs+150:], uint16(r.Ss))
	le.PutUint64(b[ucFpstate:], fpstate)
	le.PutUint64(b[ucSigmask:], mask)
}
