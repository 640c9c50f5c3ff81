package fork

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// bootstrap makes single system calls in a stopped thread that has no arena yet.
//
// The code for that goes into the zero padding behind the vDSO, in the process' own copy of the page; no text of
// the service is changed, not even for an instant. The code makes the call, loads the registers that it used with
// the thread's own values and jumps back to where the thread was. So if the engine dies at any point, the thread
// makes that one call and runs on; and as nothing but code runs, a signal handler may run in between.
type bootstrap struct {
	pid, tid int
	at       uint64 // where the code lies
	back     *regs  // where the thread goes on
}

const bootstrapSize = 2 + 7*10 + 6 + 8

// newBootstrap finds room behind the vDSO of the process.
func newBootstrap(pid, tid int, back *regs) (*bootstrap, error) {
	maps, err := readMaps(pid)
	if err != nil {
		return nil, err
	}
	for _, m := range maps {
		if m.Path != "[vdso]" {
			continue
		}
		text := make([]byte, m.End-m.Start)
		if err := readMem(pid, m.Start, text); err != nil {
			return nil, err
		}
		used := len(bytes.TrimRight(text, "\x00"))
		at := (m.Start + uint64(used) + 64 + 7) &^ 7 // some zeros behind the last byte may belong to it
		if at+bootstrapSize > m.End {
			return nil, fmt.Errorf("process %d: no room behind its vDSO", pid)
		}
		return &bootstrap{pid, tid, at, back}, nil
	}
	return nil, fmt.Errorf("process %d has no vDSO", pid)
}

// code makes one system call with the registers as they are and goes back.
func (b *bootstrap) code() []byte {
	c := append(make([]byte, 0, bootstrapSize), 0x0f, 0x05) // syscall
	mov := func(rex, op byte, v uint64) {
		c = append(c, rex, op)
		c = binary.LittleEndian.AppendUint64(c, v)
	}
	mov(0x48, 0xbf, b.back.Rdi)
	mov(0x48, 0xbe, b.back.Rsi)
	mov(0x48, 0xba, b.back.Rdx)
	mov(0x49, 0xba, b.back.R10)
	mov(0x49, 0xb8, b.back.R8)
	mov(0x49, 0xb9, b.back.R9)
	mov(0x48, 0xb8, b.back.Rax)
	c = append(c, 0xff, 0x25, 0, 0, 0, 0) // jmp *0(%rip)
	return binary.LittleEndian.AppendUint64(c, b.back.Rip)
}

// call makes the system call and leaves the thread stopped with its own registers. A thread that was stopped in
// user mode loses RCX and R11 if, and only if, the engine dies during the call.
func (b *bootstrap) call(nr uintptr, args ...uint64) (int64, error) {
	if err := b.poke(b.at, b.code()); err != nil {
		return 0, err
	}
	r := *b.back
	r.Rip, r.Rax, r.Orig_rax = b.at, uint64(nr), ^uint64(0)
	for i, p := range []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9} {
		*p = 0
		if i < len(args) {
			*p = args[i]
		}
	}
	if err := setRegs(b.tid, &r); err != nil {
		return 0, gone(b.tid, err)
	}
	held, err := b.stepOver()
	if err != nil {
		return 0, err
	}
	if err := getRegs(b.tid, &r); err != nil {
		return 0, gone(b.tid, err)
	}
	if err := setRegs(b.tid, b.back); err != nil {
		return 0, gone(b.tid, err)
	}
	for _, sig := range held {
		if err := unix.Tgkill(b.pid, b.tid, sig); err != nil {
			return 0, fmt.Errorf("thread %d: give back %v: %w", b.tid, sig, err)
		}
	}
	if ret := int64(r.Rax); ret < 0 && ret >= -4095 {
		return ret, fmt.Errorf("system call %d in thread %d: %w", nr, b.tid, unix.Errno(-ret))
	}
	return int64(r.Rax), nil
}

// stepOver runs the thread from the entry to the exit of the call and returns signals that came up meanwhile.
func (b *bootstrap) stepOver() ([]unix.Signal, error) {
	var held []unix.Signal
	for stops := 0; stops < 2; {
		if err := ptrace(unix.PTRACE_SYSCALL, b.tid, 0, 0); err != nil {
			return held, gone(b.tid, err)
		}
		ws, err := waitTask(b.tid)
		if err != nil || !ws.Stopped() {
			return held, errors.Join(gone(b.tid, unix.ESRCH), err)
		}
		switch {
		case ws.StopSignal() == unix.SIGTRAP|0x80:
			stops++
		case int(ws)>>16 == 0:
			held = append(held, ws.StopSignal())
		}
	}
	return held, nil
}

// poke writes into memory that the process itself cannot write.
func (b *bootstrap) poke(at uint64, p []byte) error {
	for len(p)%8 != 0 {
		p = append(p, 0)
	}
	for i := 0; i < len(p); i += 8 {
		if err := ptrace(unix.PTRACE_POKETEXT, b.tid, uintptr(at)+uintptr(i),
			uintptr(binary.LittleEndian.Uint64(p[i:]))); err != nil {
			return fmt.Errorf("thread %d: write behind the vDSO: %w", b.tid, err)
		}
	}
	return nil
}

// clear takes the code out again.
func (b *bootstrap) clear() error { return b.poke(b.at, make([]byte, bootstrapSize)) }
