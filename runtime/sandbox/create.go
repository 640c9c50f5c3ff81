package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options describe a container to create.
type Options struct {
	Root   string      // state root, made if it does not exist
	ID     string      // letters, digits and _+-. only; must be free
	Bundle string      // bundle directory
	Spec   *specs.Spec // nil: Bundle's config.json. Relative paths in it are taken from Bundle
	Stdio  Stdio
	// CgroupName is the last part of the cgroup's path where the bundle names none (linux.cgroupsPath). "": ID, as with
	// runc, which two containers with one id under different roots then share.
	CgroupName string
	// Reaper puts a tiny pid 1 of ours in front of the program; see ServicePID. The container needs /proc.
	Reaper bool
	// PIDFile, if set, receives the host pid of the container's pid 1.
	PIDFile string
	// ExtraFiles are given to the program as descriptors 3 and up. The caller keeps them.
	ExtraFiles []*os.File
	// PidfdSocket, if set, is a connected unix socket over which a pidfd of the container's pid 1 is sent. The caller keeps it.
	PidfdSocket  *os.File
	NoPivot      bool // use MS_MOVE instead of pivot_root; for a root on a ramdisk
	NoNewKeyring bool // stay in the caller's session keyring
	// SystemdCgroup has systemd make the cgroup; cgroupsPath is then "slice:prefix:name".
	SystemdCgroup bool
	// RootlessCgroups makes a cgroup that may not be made no error. nil: unless the caller is root of the host.
	RootlessCgroups *bool
	// Affinity are the CPUs that the container's processes may use. nil: all of its cgroup, as with runc, whatever the
	// caller may use. A bundle that names CPUs (linux.resources.cpu.cpus) goes before it.
	Affinity *unix.CPUSet
}

var errNoSystemd = errors.New("--systemd-cgroup: systemd does not run on this host (there is no /run/systemd/system); without the flag corsa makes the cgroup itself")

// bundleAndSpec are the bundle's absolute path and its configuration, if both can be used as the options say.
func (o *Options) bundleAndSpec() (bundle string, spec *specs.Spec, err error) {
	if bundle, err = filepath.Abs(o.Bundle); err != nil {
		return "", nil, err
	}
	if spec = o.Spec; spec == nil {
		if spec, err = LoadSpec(bundle); err != nil {
			return "", nil, err
		}
	} else if err := checkSpec(spec); err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrInvalidBundle, err)
	}
	if err := checkTerminal(spec.Process, &o.Stdio); err != nil {
		return "", nil, err
	}
	if o.SystemdCgroup && !systemd.IsRunningSystemd() {
		return "", nil, errNoSystemd
	}
	return bundle, spec, nil
}

// Create makes the container and brings it to the point where Start executes its program. Whatever can be known
// to be wrong before is an error here: a bad bundle (ErrInvalidBundle), a taken id (ErrExist), a program that does
// not exist in the container. After an error nothing is left.
func Create(ctx context.Context, o Options) (*Sandbox, error) {
	bundle, spec, err := o.bundleAndSpec()
	if err != nil {
		return nil, err
	}
	if o.Reaper && !mountsProc(spec) {
		return nil, fmt.Errorf("%w %s: the reaper is executed through /proc; add a mount of type proc at /proc", ErrInvalidBundle, bundle)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := newSandbox(&o, bundle, spec)
	if err != nil {
		return nil, err
	}
	record, err := s.record()
	if err == nil {
		err = s.startInit(&o, spec)
	}
	if err != nil {
		err = errors.Join(s.wrap("create", err), s.undo())
	}
	if record != nil {
		err = errors.Join(err, record.Close())
	}
	if err != nil {
		return nil, err
	}
	s.fresh.Store(true)
	return s, nil
}

// newSandbox registers the container: it makes the state directory, but no process yet.
func newSandbox(o *Options, bundle string, spec *specs.Spec) (*Sandbox, error) {
	cfg, err := containerConfig(o, bundle, spec)
	if err != nil {
		return nil, err
	}
	if len(o.ID) > unix.NAME_MAX {
		return nil, fmt.Errorf("%w: it has %d characters, and a file name may have %d", ErrInvalidID, len(o.ID), unix.NAME_MAX)
	}
	c, err := libcontainer.Create(o.Root, o.ID, cfg)
	switch {
	case errors.Is(err, libcontainer.ErrExist):
		return nil, fmt.Errorf("container %q under %s: %w; delete it first or take another id", o.ID, o.Root, ErrExist)
	case errors.Is(err, libcontainer.ErrInvalidID):
		return nil, invalidID(o.ID)
	case err != nil && strings.Contains(err.Error(), "cgroup is not empty"):
		return nil, fmt.Errorf("container %q: create: %w: end them, or choose another linux.cgroupsPath; without one the cgroup is named by the id", o.ID, err)
	case err != nil:
		return nil, fmt.Errorf("container %q: create: %w", o.ID, err)
	}
	s := &Sandbox{root: o.Root, container: c}
	if err := s.checkCgroups(); err != nil {
		return nil, errors.Join(s.wrap("create", err), os.Remove(s.Dir()))
	}
	return s, nil
}

// checkCgroups refuses cgroups that others use: delete would end them. libcontainer has looked at one hierarchy only.
func (s *Sandbox) checkCgroups() error {
	st, err := s.container.State()
	if err != nil {
		return err
	}
	for _, dir := range st.CgroupPaths {
		pids, err := cgroups.GetAllPids(dir)
		if err == nil && len(pids) > 0 {
			return fmt.Errorf("its cgroup %s is not empty: processes %v are in it: end them, or choose another linux.cgroupsPath; without one the cgroup is named by the id", dir, pids)
		}
	}
	return nil
}

// startInit starts the container's first process, which waits for Start.
func (s *Sandbox) startInit(o *Options, spec *specs.Spec) error {
	lp, err := newProcess(spec.Process)
	if err != nil {
		return err
	}
	lp.Init = true
	lp.ExtraFiles = o.ExtraFiles
	lp.PidfdSocket = o.PidfdSocket
	var rp *reaper
	if o.Reaper {
		if rp, err = newReaper(lp); err != nil {
			return err
		}
		defer rp.close()
	}
	p, err := s.launch(lp, &o.Stdio, s.container.Start)
	if err != nil {
		return err
	}
	s.init = p
	if o.Affinity != nil && !namesCPUs(spec) {
		if err := pin(p.pid, o.Affinity); err != nil {
			return err
		}
	}
	if rp != nil {
		program, err := lookProgram(p.pid, spec)
		if err != nil {
			return err
		}
		if err := rp.load(program); err != nil {
			return err
		}
	}
	if o.PIDFile != "" {
		return writePIDFile(o.PIDFile, p.pid)
	}
	return nil
}

// launch attaches the standard streams to lp and starts it by start.
func (s *Sandbox) launch(lp *libcontainer.Process, stdio *Stdio, start func(*libcontainer.Process) error) (*Process, error) {
	pipes, theirs, err := attach(lp, stdio, s.container.Config())
	if err != nil {
		return nil, err
	}
	err = deniedExec(start(lp))
	closeAll(theirs)
	if err == nil {
		var pid int
		if pid, err = lp.Pid(); err == nil {
			return &Process{lp: lp, pid: pid, pipes: pipes}, nil
		}
	}
	if pipes != nil {
		err = errors.Join(err, pipes.Stdin.Close(), pipes.Stdout.Close(), pipes.Stderr.Close())
	}
	return nil, err
}

// deniedExec says of a program that is a directory what execve does. Callers such as podman take the exit code 126 from
// these words.
func deniedExec(err error) error {
	if err == nil || !strings.HasSuffix(err.Error(), unix.EISDIR.Error()) {
		return err
	}
	return fmt.Errorf("%w: %s", err, unix.EACCES.Error())
}

// undo removes a container whose creation failed half way.
func (s *Sandbox) undo() error {
	if s.init != nil {
		err := s.Kill(context.Background())
		// It is our child: reap it. That it was killed is no news.
		if _, werr := s.init.Wait(); err == nil {
			err = werr
		}
		if p := s.init.pipes; p != nil {
			err = errors.Join(err, p.Stdin.Close(), p.Stdout.Close(), p.Stderr.Close())
		}
		if err != nil {
			return err
		}
	}
	return s.destroy()
}
