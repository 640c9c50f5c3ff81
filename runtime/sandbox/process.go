package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Stdio says what a container's process has as standard streams. The caller keeps its files and may close them
// once Create or Exec has returned.
type Stdio struct {
	// In, Out and Err are given to the process as they are; nil is /dev/null.
	In, Out, Err *os.File
	// Pipes makes three pipes instead, owned by the container's root user; the other ends are Process.Pipes.
	Pipes bool
	// Console is a connected unix socket over which the master of the process's terminal is sent. It must be set
	// if, and only if, the process has a terminal. See DialConsole.
	Console *os.File
}

// Pipes are the caller's ends of a process's standard streams. The caller closes them.
type Pipes struct {
	Stdin          io.WriteCloser
	Stdout, Stderr io.ReadCloser
}

// Process is a process of a container that this process started.
type Process struct {
	lp       *libcontainer.Process
	restored *os.Process // in place of lp if it comes from an image
	pid      int
	pipes    *Pipes
}

// PID is the process's host pid.
func (p *Process) PID() int { return p.pid }

// Pipes is nil unless Stdio.Pipes was set.
func (p *Process) Pipes() *Pipes { return p.pipes }

// Signal sends sig to this process alone.
func (p *Process) Signal(sig unix.Signal) error {
	if p.restored != nil {
		return p.restored.Signal(sig)
	}
	return p.lp.Signal(sig)
}

// Wait waits for the process to end and reaps it. It returns its exit code, or 128 plus the number of the signal
// that ended it. Call it once.
func (p *Process) Wait() (int, error) {
	state, err := p.await()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return -1, fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	if state == nil {
		state = exit.ProcessState
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	if !ok {
		return -1, fmt.Errorf("wait for process %d: no wait status", p.pid)
	}
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

func (p *Process) await() (*os.ProcessState, error) {
	if p.restored != nil {
		return p.restored.Wait()
	}
	return p.lp.Wait()
}

// DialConsole connects to the unix socket of a caller that wants the terminal's master (--console-socket). The
// caller closes the file.
func DialConsole(path string) (*os.File, error) { return dialUnix("console socket", path) }

// DialPidfd connects to the unix socket of a caller that wants a pidfd of the process (--pidfd-socket). The caller closes
// the file.
func DialPidfd(path string) (*os.File, error) { return dialUnix("pidfd socket", path) }

func dialUnix(what, path string) (*os.File, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer conn.Close()
	f, err := conn.File()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, path, err)
	}
	return f, nil
}

// checkTerminal refuses a terminal without a socket and the reverse.
func checkTerminal(p *specs.Process, stdio *Stdio) error {
	if p.Terminal && stdio.Console == nil {
		return fmt.Errorf("%w: the process has a terminal but nothing takes its master; set a console socket, or process.terminal to false", ErrInvalidBundle)
	}
	if !p.Terminal && stdio.Console != nil {
		return fmt.Errorf("%w: a console socket is of no use: the process has no terminal; set process.terminal to true", ErrInvalidBundle)
	}
	return nil
}

// newProcess converts p. Stdio is set by attach.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args:            p.Args,
		Env:             p.Env,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		Cwd:             p.Cwd,
		Label:           p.SelinuxLabel,
		NoNewPrivileges: &p.NoNewPrivileges,
		AppArmorProfile: p.ApparmorProfile,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
		LogLevel:        strconv.Itoa(int(logrus.GetLevel())),
	}
	if p.ConsoleSize != nil {
		lp.ConsoleWidth = uint16(p.ConsoleSize.Width)
		lp.ConsoleHeight = uint16(p.ConsoleSize.Height)
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding:    c.Bounding,
			Effective:   c.Effective,
			Inheritable: c.Inheritable,
			Permitted:   c.Permitted,
			Ambient:     c.Ambient,
		}
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	var err error
	if lp.Rlimits, err = convertRlimits(p.Rlimits); err != nil {
		return nil, err
	}
	affinity, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	if err != nil {
		return nil, fmt.Errorf("%w: process.execCPUAffinity: %w", ErrInvalidBundle, err)
	}
	lp.CPUAffinity = affinity
	return lp, nil
}

// attach gives lp its standard streams. The returned files are the process's ends of new pipes: they are closed
// once it has been started.
func attach(lp *libcontainer.Process, stdio *Stdio, cfg configs.Config) (*Pipes, []*os.File, error) {
	if stdio.Console != nil {
		lp.ConsoleSocket = stdio.Console
		return nil, nil, nil
	}
	if !stdio.Pipes {
		// Not assigned as they are: a nil *os.File in an io.Reader is not nil.
		if stdio.In != nil {
			lp.Stdin = stdio.In
		}
		if stdio.Out != nil {
			lp.Stdout = stdio.Out
		}
		if stdio.Err != nil {
			lp.Stderr = stdio.Err
		}
		return nil, nil, nil
	}
	uid, err := cfg.HostRootUID()
	if err != nil {
		return nil, nil, err
	}
	gid, err := cfg.HostRootGID()
	if err != nil {
		return nil, nil, err
	}
	var r, w [3]*os.File
	for i := range r {
		if r[i], w[i], err = os.Pipe(); err == nil {
			err = errors.Join(r[i].Chown(uid, gid), w[i].Chown(uid, gid))
		}
		if err != nil {
			closeAll(r[:])
			closeAll(w[:])
			return nil, nil, fmt.Errorf("pipe for standard stream %d: %w", i, err)
		}
	}
	lp.Stdin, lp.Stdout, lp.Stderr = r[0], w[1], w[2]
	return &Pipes{Stdin: w[0], Stdout: r[1], Stderr: r[2]}, []*os.File{r[0], w[1], w[2]}, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // a pipe that nothing was written to: nothing can be lost
		}
	}
}

var rlimits = map[string]int{
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
}
