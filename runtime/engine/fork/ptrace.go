package fork

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// All ptrace requests for a task have to come from the OS thread that seized it. Every function that seizes
// therefore locks the calling goroutine to its thread and detaches before it returns: between two calls no task
// is traced, and any thread of the monitor can make the next call.

// regs is struct user_regs_struct.
type regs = unix.PtraceRegs

func ptrace(req int, tid int, addr, data uintptr) error {
	if _, _, e := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(req), uintptr(tid), addr, data, 0, 0); e != 0 {
		return e
	}
	return nil
}

func getRegs(tid int, r *regs) error {
	return ptrace(unix.PTRACE_GETREGS, tid, 0, uintptr(unsafe.Pointer(r)))
}

func setRegs(tid int, r *regs) error {
	return ptrace(unix.PTRACE_SETREGS, tid, 0, uintptr(unsafe.Pointer(r)))
}

func getSigmask(tid int, m *uint64) error {
	return ptrace(unix.PTRACE_GETSIGMASK, tid, 8, uintptr(unsafe.Pointer(m)))
}

func setSigmask(tid int, m *uint64) error {
	return ptrace(unix.PTRACE_SETSIGMASK, tid, 8, uintptr(unsafe.Pointer(m)))
}

const ntX86Xstate = 0x202

// getXstate reads the extended state of a stopped task into b and returns its length.
func getXstate(tid int, b []byte) (int, error) {
	iov := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	err := ptrace(unix.PTRACE_GETREGSET, tid, ntX86Xstate, uintptr(unsafe.Pointer(&iov)))
	return int(iov.Len), err
}

// rseqConfig is struct ptrace_rseq_configuration.
type rseqConfig struct {
	Ptr   uint64 `json:"ptr,omitempty"`
	Size  uint32 `json:"size,omitempty"`
	Sig   uint32 `json:"sig,omitempty"`
	Flags uint32 `json:"-"`
	Pad   uint32 `json:"-"`
}

const ptraceGetRseqConfiguration = 0x420f

func getRseq(tid int, c *rseqConfig) error {
	return ptrace(ptraceGetRseqConfiguration, tid, unsafe.Sizeof(*c), uintptr(unsafe.Pointer(c)))
}

// pendingUnblocked reports whether the stopped task has a signal that it would take now.
func pendingUnblocked(tid int, mask uint64) (bool, error) {
	type peek struct {
		off   uint64
		flags uint32
		nr    int32
	}
	var info [128]byte
	for _, flags := range []uint32{0, 1} { // 1: PTRACE_PEEKSIGINFO_SHARED
		for off := uint64(0); ; off++ {
			a := peek{off, flags, 1}
			n, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_PEEKSIGINFO, uintptr(tid),
				uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&info)), 0, 0)
			if e != 0 {
				return false, e
			}
			if n == 0 {
				break
			}
			if sig := *(*int32)(unsafe.Pointer(&info)); sig > 0 && mask&(1<<(sig-1)) == 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// waitTask waits for the next event of a task that has been let go on; see awaitEvent.
func waitTask(tid int) (unix.WaitStatus, error) { return awaitEvent(tid, func() {}) }

// readMem fills the buffers from consecutive memory of the process at addr.
func readMem(pid int, addr uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	l := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	r := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}
	n, err := unix.ProcessVMReadv(pid, l, r, 0)
	if err == nil && n != len(b) {
		err = unix.EFAULT
	}
	if err != nil {
		return fmt.Errorf("read %d bytes at %#x of process %d: %w", len(b), addr, pid, err)
	}
	return nil
}

func writeMem(pid int, addr uint64, b []byte) error { return writePieces(pid, piece{addr, b}) }

// piece is what is to be written to an address.
type piece struct {
	at uint64
	b  []byte
}

// writePieces writes into the process' memory by one system call. Pieces may be empty.
func writePieces(pid int, pieces ...piece) error {
	l, r, want := make([]unix.Iovec, 0, 4), make([]unix.RemoteIovec, 0, 4), 0
	for _, p := range pieces {
		if len(p.b) > 0 {
			l = append(l, unix.Iovec{Base: &p.b[0], Len: uint64(len(p.b))})
			r = append(r, unix.RemoteIovec{Base: uintptr(p.at), Len: len(p.b)})
			want += len(p.b)
		}
	}
	if want == 0 {
		return nil
	}
	n, err := unix.ProcessVMWritev(pid, l, r, 0)
	if err == nil && n != want {
		err = unix.EFAULT
	}
	if err != nil {
		return fmt.Errorf("write %d bytes at %#x of process %d: %w", want, r[0].Base, pid, err)
	}
	return nil
}
