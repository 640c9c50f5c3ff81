package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// translate gives errors of the module the meaning that the engine's callers test for.
func translate(pid int, err error) error {
	var refused *client.Refused
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return refusal(pid, refused)
	case errors.Is(err, client.ErrNoRecord), errors.Is(err, client.ErrOver):
		return fmt.Errorf("%w: %w", engine.ErrGone, err)
	case errors.Is(err, client.ErrBusy):
		return fmt.Errorf("%w: %w", engine.ErrBusy, err)
	}
	return err
}

// refusal names what the module refuses.
func refusal(pid int, refused *client.Refused) error {
	r := &engine.Refusal{PID: pid}
	for _, x := range refused.Refusals {
		r.Blockers = append(r.Blockers, engine.Blocker{Object: x.Object(), Reason: x.Reason(), WayOut: x.WayOut()})
	}
	if len(r.Blockers) == 0 { // an activation does not say more
		r.Blockers = []engine.Blocker{{
			Object: fmt.Sprintf("process %d", pid),
			Reason: "it has changed its credentials since, or uses a facility of the kernel that is tied to one instance",
			WayOut: "see docs/engine-kmod.md for what these are; or use the fork engine",
		}}
	}
	return r
}

// privateOnly refuses what the plan holds and this engine cannot make anew.
func privateOnly(pid int, p *fdplan.Plan) error {
	signals := map[int]bool{}
	for i := range p.FDs {
		if p.FDs[i].Kind == fdplan.Signal {
			signals[p.FDs[i].FD] = true
		}
	}
	var blockers []engine.Blocker
	for i := range p.FDs {
		for _, w := range p.FDs[i].Watches {
			if w.File != 0 {
				blockers = append(blockers, engine.Blocker{
					Object: fmt.Sprintf("fd %d (epoll entry for fd %d)", p.FDs[i].FD, w.FD),
					Reason: "the watched file is not open under that number any more, so it cannot be watched anew",
					WayOut: "use the fork engine, or let the service remove descriptors from the set before it closes them",
				})
			}
			if signals[w.FD] {
				blockers = append(blockers, engine.Blocker{
					Object: fmt.Sprintf("fd %d (signalfd in epoll set %d)", w.FD, p.FDs[i].FD),
					Reason: "an entry for a signalfd belongs to the process that added it, and the engine would be that",
					WayOut: "use the fork engine, or a signal handler that writes to a pipe",
				})
			}
		}
	}
	if blockers == nil {
		return nil
	}
	return &engine.Refusal{PID: pid, Blockers: blockers}
}

// noSharedMemory refuses shared anonymous memory, which may have come since the service was adopted: a copy would share
// it with the original.
func noSharedMemory(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return gone(pid, err)
	}
	var blockers []engine.Blocker
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 6 || !bytes.HasPrefix(f[5], []byte("/dev/zero")) || len(f[1]) != 4 || f[1][3] != 's' {
			continue
		}
		blockers = append(blockers, engine.Blocker{
			Object: fmt.Sprintf("mapping %s (shared anonymous)", f[0]),
			Reason: "a copy made in the kernel would share it with the original",
			WayOut: "use the fork engine, which copies it, or let the service map it privately",
		})
	}
	if blockers == nil {
		return nil
	}
	return &engine.Refusal{PID: pid, Blockers: blockers}
}
