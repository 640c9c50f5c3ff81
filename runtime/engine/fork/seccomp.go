package fork

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// A service under a seccomp filter would be killed for most of what the stub has to do. While corsa makes it do that,
// it is traced with its filter suspended (PTRACE_O_SUSPEND_SECCOMP, ptrace(2)); as soon as an instance runs code of
// its own, it is under its filter again. What the stub does untraced, to wait and to go on, has to pass the filter.

const (
	ptraceSeccompGetFilter = 0x420c

	seccompRetAllow = 0x7fff0000
	seccompRetLog   = 0x7ffc0000
)

// guardOptions attach everything that a guarded task creates, with the filter suspended there too.
const guardOptions = unix.PTRACE_O_SUSPEND_SECCOMP | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK |
	unix.PTRACE_O_TRACEVFORK

// guard keeps filters suspended while fn commands agents. It is a no-op for a service without a filter.
func (s *service) guard(a *anchor, fn func() error) error {
	if !s.seccomp {
		return fn()
	}
	a.guarded.Lock() // a task has one tracer
	defer a.guarded.Unlock()
	g := &guard{stop: make(chan struct{}), done: make(chan error, 1), ready: make(chan error, 1)}
	go g.run(a.PID)
	if err := <-g.ready; err != nil {
		return fmt.Errorf("suspend the seccomp filter: %w", err)
	}
	err := fn()
	close(g.stop)
	return errors.Join(err, <-g.done)
}

// guard is the thread that traces: ptrace belongs to one thread, and fn must not be kept from waiting elsewhere.
type guard struct {
	stop  chan struct{}
	done  chan error
	ready chan error
	tasks map[int]bool
}

func (g *guard) run(pid int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := ptrace(unix.PTRACE_SEIZE, pid, 0, guardOptions)
	g.ready <- err
	if err != nil {
		return
	}
	g.tasks = map[int]bool{pid: true}
	for {
		select {
		case <-g.stop:
			g.done <- g.detach()
			return
		default:
			if !g.event() {
				time.Sleep(20 * time.Microsecond)
			}
		}
	}
}

// event handles one stop of any task of this thread and reports whether there was one.
func (g *guard) event() bool {
	var ws unix.WaitStatus
	tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOHANG|unix.WNOTHREAD, nil)
	if err != nil || tid <= 0 {
		return false
	}
	if !ws.Stopped() {
		delete(g.tasks, tid)
		return true
	}
	g.tasks[tid] = true
	sig := ws.StopSignal()
	if int(ws)>>16 != 0 {
		sig = 0 // a clone, or the first stop of what it made
	}
	// ESRCH: it was killed meanwhile, which its own wait status will tell.
	_ = ptrace(unix.PTRACE_CONT, tid, 0, uintptr(sig))
	return true
}

// detach stops every task once more, which a detach needs, and lets it go on under its filter.
func (g *guard) detach() error {
	for g.event() { // what has been made but not been seen yet
	}
	var errs error
	for tid := range g.tasks {
		if err := ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0); err != nil {
			continue // dead
		}
		for {
			ws, err := waitTask(tid)
			if err != nil || !ws.Stopped() {
				break
			}
			if int(ws)>>16 == unix.PTRACE_EVENT_STOP {
				if err := ptrace(unix.PTRACE_DETACH, tid, 0, 0); err != nil && !errors.Is(err, unix.ESRCH) {
					errs = errors.Join(errs, fmt.Errorf("task %d: detach: %w", tid, err))
				}
				break
			}
			_ = ptrace(unix.PTRACE_CONT, tid, 0, 0) // ESRCH shows at the next wait
		}
	}
	return errs
}

// filterAllows reports whether every filter of the stopped task lets the system call pass.
func filterAllows(tid int, nr uint32) (bool, error) {
	const auditArchX8664 = 0xc000003e
	data := make([]byte, 64) // struct seccomp_data, each word as the classic BPF machine loads it
	binary.BigEndian.PutUint32(data, nr)
	binary.BigEndian.PutUint32(data[4:], auditArchX8664)
	for i := 0; ; i++ {
		raw, err := readFilter(tid, i)
		if errors.Is(err, unix.ENOENT) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("read seccomp filter %d: %w", i, err)
		}
		prog, ok := bpf.Disassemble(raw)
		if !ok {
			return false, fmt.Errorf("seccomp filter %d: not classic BPF", i)
		}
		vm, err := bpf.NewVM(prog)
		if err != nil {
			return false, fmt.Errorf("seccomp filter %d: %w", i, err)
		}
		ret, err := vm.Run(data)
		if err != nil {
			return false, fmt.Errorf("seccomp filter %d: %w", i, err)
		}
		if action := uint32(ret) & 0xffff0000; action != seccompRetAllow && action != seccompRetLog {
			return false, nil
		}
	}
}

func readFilter(tid, i int) ([]bpf.RawInstruction, error) {
	n, _, e := unix.Syscall6(unix.SYS_PTRACE, ptraceSeccompGetFilter, uintptr(tid), uintptr(i), 0, 0, 0)
	if e != 0 {
		return nil, e
	}
	b := make([]byte, 8*n)
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, ptraceSeccompGetFilter, uintptr(tid), uintptr(i),
		uintptr(unsafe.Pointer(&b[0])), 0, 0); e != 0 {
		return nil, e
	}
	out := make([]bpf.RawInstruction, n)
	for j := range out {
		o := b[8*j:]
		out[j] = bpf.RawInstruction{Op: binary.NativeEndian.Uint16(o), Jt: o[2], Jf: o[3], K: binary.NativeEndian.Uint32(o[4:])}
	}
	return out, nil
}

// checkFilter refuses a filter that forbids what a dormant thread does untraced.
func checkFilter(pid, tid int) error {
	var blockers []engine.Blocker
	for nr, name := range map[uint32]string{unix.SYS_FUTEX: "futex", unix.SYS_RT_SIGRETURN: "rt_sigreturn"} {
		ok, err := filterAllows(tid, nr)
		if err != nil {
			return err
		}
		if !ok {
			blockers = append(blockers, engine.Blocker{
				Object: "seccomp filter", Reason: "it forbids " + name + ", in which a dormant instance waits",
				WayOut: "allow " + name + " in the service's filter",
			})
		}
	}
	if blockers != nil {
		return &engine.Refusal{PID: pid, Blockers: blockers}
	}
	return nil
}
