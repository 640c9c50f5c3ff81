package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ExecOptions describe a further process in a container.
type ExecOptions struct {
	Process *specs.Process
	Stdio   Stdio
	// PIDFile, if set, receives the process's host pid.
	PIDFile    string
	ExtraFiles []*os.File // descriptors 3 and up of the process; the caller keeps them
	// PidfdSocket, if set, is a connected unix socket over which a pidfd of the process is sent. The caller keeps it.
	PidfdSocket *os.File
	// SubCgroups are cgroups, relative to the container's, that the process runs in: by controller, or "" for all.
	SubCgroups map[string]string
	// IgnorePaused allows a paused container: the process starts once it is resumed.
	IgnorePaused bool
}

// Exec starts a further process. It is a child of the caller, who has to Wait for it unless it exits first.
func (s *Sandbox) Exec(ctx context.Context, o ExecOptions) (*Process, error) {
	if err := checkProcess(o.Process); err != nil {
		return nil, s.wrap("exec", err)
	}
	if err := checkTerminal(o.Process, &o.Stdio); err != nil {
		return nil, s.wrap("exec", err)
	}
	allowed := []Status{Created, Running}
	if o.IgnorePaused {
		allowed = append(allowed, Paused)
	}
	if err := s.require("exec in", allowed...); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	lp, err := newProcess(o.Process)
	if err != nil {
		return nil, s.wrap("exec", err)
	}
	lp.ExtraFiles = o.ExtraFiles
	lp.PidfdSocket = o.PidfdSocket
	if len(o.SubCgroups) > 0 {
		lp.SubCgroupPaths = o.SubCgroups
	}
	p, err := s.launch(lp, &o.Stdio, s.container.Run)
	if err != nil {
		return nil, s.wrap("exec", err)
	}
	if o.PIDFile != "" {
		if err := writePIDFile(o.PIDFile, p.pid); err != nil {
			kerr := p.Signal(unix.SIGKILL)
			_, werr := p.Wait()
			return nil, s.wrap("exec", errors.Join(err, kerr, werr))
		}
	}
	return p, nil
}

// DefaultProcess is the process of the bundle's config.json, as a template for Exec: without terminal, arguments kept.
func (s *Sandbox) DefaultProcess() (*specs.Process, error) {
	spec, err := LoadSpec(s.Bundle())
	if err != nil {
		return nil, fmt.Errorf("container %q: its bundle is the template of what is executed in it: %w", s.ID(), err)
	}
	spec.Process.Terminal = false
	return spec.Process, nil
}
