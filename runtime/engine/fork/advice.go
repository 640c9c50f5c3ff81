package fork

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// advice is what a service has told the kernel about its memory and what a fork forgets. An image has neither: it is a fork,
// and nothing keeps its regions out of the next one. An instance is given both.
//
// Regions are listed in smaps only, which takes a walk of the page tables. So that is read at adoption and by checkpoints of
// instances that are known to have such regions. Others only look at two sums: a change makes the checkpoint fail by name, and
// the next one read.
type advice struct {
	Locked   []region `json:"locked,omitempty"`
	Future   bool     `json:"future,omitempty"`   // mlockall(MCL_FUTURE)
	DontFork []region `json:"dontFork,omitempty"` // MADV_DONTFORK
}

func (a *advice) empty() bool {
	return a == nil || len(a.Locked) == 0 && len(a.DontFork) == 0 && !a.Future
}

// region is an address range.
type region struct {
	Start uint64 `json:"start"`
	End   uint64 `json:"end"`
}

// maxSpans is how many regions of a kind a batch has room for.
const maxSpans = 200

// readAdvice reads smaps. future is carried over: only what is mapped next would show it.
func readAdvice(pid int, own arena, future bool) (*advice, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, gone(pid, err)
	}
	a := &advice{Future: future}
	var head []byte
	for line := range bytes.Lines(text) {
		flags, ok := bytes.CutPrefix(line, []byte("VmFlags:"))
		if !ok {
			if c := line[0]; c >= '0' && c <= '9' || c >= 'a' && c <= 'f' {
				head = line
			}
			continue
		}
		if err := a.note(head, flags, own); err != nil {
			return nil, fmt.Errorf("/proc/%d/smaps: %w", pid, err)
		}
	}
	for _, list := range [][]region{a.Locked, a.DontFork} {
		if len(list) > maxSpans {
			return nil, &engine.Refusal{PID: pid, Blockers: []engine.Blocker{{
				Object: fmt.Sprintf("mapping %x-%x", list[maxSpans].Start, list[maxSpans].End),
				Reason: fmt.Sprintf("it is one of more than %d regions that are locked, or marked MADV_DONTFORK", maxSpans),
				WayOut: "let the service lock or mark larger regions, or none",
			}}}
		}
	}
	if a.empty() {
		return nil, nil
	}
	return a, a.allowed(pid)
}

// note takes in one mapping. Memory of devices is not ours to treat, and the kernel's own mappings are in every process.
func (a *advice) note(head, flags []byte, own arena) error {
	locked, kept := bytes.Contains(flags, []byte(" lo")), bytes.Contains(flags, []byte(" dc"))
	if !locked && !kept || bytes.Contains(flags, []byte(" io")) || bytes.Contains(flags, []byte(" pf")) || bytes.Contains(flags, []byte(" mm")) {
		return nil
	}
	m, err := parseMapping(string(head))
	if err != nil {
		return err
	}
	if own.has(m.Start) || strings.HasPrefix(m.Path, "[v") {
		return nil
	}
	add := func(list *[]region) {
		if n := len(*list); n > 0 && (*list)[n-1].End == m.Start {
			(*list)[n-1].End = m.End
			return
		}
		*list = append(*list, region{m.Start, m.End})
	}
	if locked {
		add(&a.Locked)
	}
	if kept {
		add(&a.DontFork)
	}
	return nil
}

func (a *advice) lockedBytes() (n uint64) {
	for _, s := range a.Locked {
		n += s.End - s.Start
	}
	return n
}

// allowed refuses locks that an instance could not take: the service may have had other privileges when it did.
func (a *advice) allowed(pid int) error {
	if len(a.Locked) == 0 && !a.Future {
		return nil
	}
	caps, err := effectiveCaps(pid)
	if err != nil || caps>>unix.CAP_IPC_LOCK&1 != 0 {
		return err
	}
	text, err := limitsText(pid)
	if err != nil {
		return err
	}
	limits, err := parseLimits(text)
	if err != nil {
		return err
	}
	if n := a.lockedBytes(); len(limits) > unix.RLIMIT_MEMLOCK && n > limits[unix.RLIMIT_MEMLOCK].Cur {
		return &engine.Refusal{PID: pid, Blockers: []engine.Blocker{{
			Object: fmt.Sprintf("mapping %x-%x", a.Locked[0].Start, a.Locked[len(a.Locked)-1].End),
			Reason: fmt.Sprintf("%d bytes are locked in memory, and the service may not lock more than %d any more", n, limits[unix.RLIMIT_MEMLOCK].Cur),
			WayOut: "raise its RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=), leave it CAP_IPC_LOCK, or start it without mlock",
		}}}
	}
	return nil
}

// advise gives a new instance's memory the advice. Locked pages are locked as they come in: to touch all of them now would copy
// what the instance has in common with others, and the next checkpoint would undo it.
func (a *anchor) advise(ctx context.Context, v *advice) error {
	if v.empty() {
		return nil
	}
	const mlockOnFault, mclFuture, mclOnFault = 1, 2, 4
	b := a.batch()
	for _, s := range v.Locked {
		b.call(unix.SYS_MLOCK2, s.Start, s.End-s.Start, mlockOnFault)
	}
	if v.Future {
		b.call(unix.SYS_MLOCKALL, mclFuture|mclOnFault)
	}
	for _, s := range v.DontFork {
		b.call(unix.SYS_MADVISE, s.Start, s.End-s.Start, unix.MADV_DONTFORK)
	}
	if _, err := a.exec(ctx, b); err != nil {
		return fmt.Errorf("lock memory and keep it out of forks: %w", err)
	}
	a.apart = v.DontFork
	return nil
}

// mappedBytes reads the size of a process' address space.
func mappedBytes(pid int) (uint64, error) {
	p := procFiles{pid: pid}
	defer p.close()
	return p.mappedBytes()
}

func (p *procFiles) mappedBytes() (uint64, error) {
	var text [128]byte
	b, err := p.read(procStatm, text[:0])
	if err != nil {
		return 0, gone(p.pid, err)
	}
	pages, _, _ := bytes.Cut(b, []byte(" "))
	n, err := strconv.ParseUint(string(pages), 10, 64)
	return n * pageSize, err
}

// mappedWhileForking is the same of a process in which a mapping may be replaced by another meanwhile, as its anchor's fork does:
// then it is smaller for an instant.
func (p *procFiles) mappedWhileForking() (uint64, error) {
	a, err := p.mappedBytes()
	if err != nil {
		return 0, err
	}
	b, err := p.mappedBytes()
	return max(a, b), err
}

// lockedBytes reads how much memory a process has locked.
func lockedBytes(pid int) (uint64, error) {
	b, err := readProc(fmt.Sprintf("/proc/%d/status", pid), nil)
	if err != nil {
		return 0, gone(pid, err)
	}
	kb, ok := strings.CutSuffix(field(b, "VmLck"), " kB")
	if !ok {
		return 0, fmt.Errorf("process %d: %w", pid, engine.ErrGone) // one without memory does not say
	}
	n, err := strconv.ParseUint(kb, 10, 64)
	return n << 10, err
}

// errAdvice says that the image lacks regions, or locks, of which nothing was known.
func errAdvice(pid int, what string) error {
	return &engine.Refusal{PID: pid, Blockers: []engine.Blocker{{
		Object: fmt.Sprintf("memory of process %d", pid), Reason: "since the checkpoint before, " + what,
		WayOut: "none needed: the next checkpoint takes it in",
	}}}
}

// refreshAdvice reads the advice of a dormant instance before a checkpoint if there is any, or if it has changed.
func (in *instance) refreshAdvice() error {
	if !in.adviceStale {
		if in.advice.empty() {
			return nil
		}
		if n, err := lockedBytes(in.leader.PID); err != nil {
			return err
		} else if len(in.advice.DontFork) == 0 && n == in.locked {
			return nil
		}
	}
	v, err := readAdvice(in.leader.PID, in.a.arena, in.advice != nil && in.advice.Future)
	if err == nil {
		in.locked, err = lockedBytes(in.leader.PID)
	}
	if err != nil {
		return err
	}
	in.advice, in.adviceStale, in.a.apart = v, false, nil
	if v != nil {
		in.a.apart = v.DontFork
	}
	return nil
}

// checkAdvice compares what the image has with what the instance had: mapped is the size of its address space then.
func (c *checkpoint) checkAdvice(mapped uint64) error {
	in := c.in
	got, err := mappedBytes(c.x.PID)
	if err != nil {
		return err
	}
	if in.binder != nil && in.binder.Binder != nil {
		mapped -= in.binder.Binder.Size // no fork has it
	}
	if got != mapped {
		in.adviceStale = true
		return errAdvice(in.leader.PID, fmt.Sprintf("the service has kept %d bytes out of forks (MADV_DONTFORK)", int64(mapped-got)))
	}
	if len(c.advised().Locked) > 0 || c.advised().Future {
		return nil
	}
	locked, err := lockedBytes(in.leader.PID)
	if errors.Is(err, engine.ErrGone) { // it runs, and may have ended since
		return nil
	}
	if err == nil && locked > 0 {
		in.adviceStale = true
		err = errAdvice(in.leader.PID, fmt.Sprintf("the service has locked %d bytes in memory", locked))
	}
	return err
}

func (c *checkpoint) advised() advice {
	if c.in.advice == nil {
		return advice{}
	}
	return *c.in.advice
}
