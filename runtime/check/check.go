// Package check tells, before anything is touched, whether a running process can be virtualised and what this
// host offers to do it with.
//
// Process looks at one process from outside, through /proc and duplicates of its sockets; the process is neither
// stopped nor changed. Whatever an engine could not carry into an instance becomes a blocker that names the
// object, the reason and the way out. Host runs the probes of the machine itself.
package check

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// Options say what the owner of a process declared about it, and how closely to look.
type Options struct {
	// Shared are absolute paths, as the process sees them, whose files all instances share on purpose: files at
	// or below them may be open for writing or mapped shared.
	Shared []string
	// Private are absolute paths of directories, as the process sees them, of which each instance gets its own.
	Private []string
	// Listeners are the addresses that become private to each instance. Any other listening socket blocks.
	Listeners []engine.Address
	// Broker is the path, as the caller sees it, of the Binder device that a gate manages: it may be open. "": none may.
	Broker string
	// Deep also reads smaps, for MADV_WIPEONFORK, locked and device memory. It walks the page tables:
	// about 1 ms for every 50 MiB of resident memory in small pages. Without it such regions go unnoticed.
	Deep bool
	// Engine is the engine that is to virtualise the process: EngineFork, which is meant by "", or EngineKmod, which
	// copies in the kernel and keeps the process, so that other things stand in its way.
	Engine string
	// Binder says that the process is called through Binder, and that the engine can stand between.
	Binder bool
	// Tracer is the thread id of an engine that is entitled to trace the process now; 0: nobody is.
	Tracer int
}

// Report is what Process found. It holds no descriptors.
type Report struct {
	PID      int              `json:"pid"`
	Comm     string           `json:"comm"`
	Engine   string           `json:"engine"` // that the blockers are for
	Threads  int              `json:"threads"`
	Resident int64            `json:"residentBytes"`
	Blockers []engine.Blocker `json:"blockers"`
	Notes    []Note           `json:"notes"`
	FDs      []FD             `json:"fds"`
}

// RequireListeners adds a blocker for each address on which the process does not listen: no app could reach an
// instance there. list is what Options.Listeners was.
func (r *Report) RequireListeners(list []engine.Address) {
	for i, a := range list {
		if !slices.ContainsFunc(r.FDs, func(f FD) bool { return f.Kind == KindListener && f.Listener == i }) {
			r.Blockers = append(r.Blockers, engine.Blocker{
				Object: "listener " + a.Address, Reason: "the service does not listen there, so no app could reach an instance",
				WayOut: "declare the address that the service is configured with",
			})
		}
	}
}

// Note is something that does not block, but that the owner of the service should know.
type Note struct {
	Object string `json:"object"`
	Text   string `json:"text"`
}

// Err returns a *engine.Refusal that lists every blocker, or nil if there is none.
func (r *Report) Err() error {
	if len(r.Blockers) == 0 {
		return nil
	}
	return &engine.Refusal{PID: r.PID, Blockers: slices.Clone(r.Blockers)}
}

// ErrThread says that the number names a thread that does not lead its process.
var ErrThread = errors.New("is a thread, not a process")

// Process inspects the running process pid, a number of the caller's pid namespace. Everything that stands in
// the way is in the report; an error means that there is no report: the process does not exist or ended
// meanwhile (errors.Is engine.ErrGone), pid is a mere thread (ErrThread), or /proc could not be read.
func Process(pid int, opts Options) (*Report, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("process %d: not a process id; way out: give a positive number", pid)
	}
	in := &inspection{
		pid:     pid,
		dir:     fmt.Sprintf("/proc/%d", pid),
		opts:    opts,
		refused: map[string]bool{},
		report:  &Report{PID: pid, Engine: opts.engine(), Blockers: []engine.Blocker{}, Notes: []Note{}, FDs: []FD{}},
	}
	// The pidfd is opened first and polled last: if it still stands for a live process then, everything that was
	// read by number in between belongs to the same process.
	pidfd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return nil, fmt.Errorf("process %d: no such process: %w", pid, engine.ErrGone)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return nil, in.notLeader()
	case err != nil:
		return nil, fmt.Errorf("process %d: pidfd_open: %w; way out: Linux 5.3 or later is needed", pid, err)
	}
	defer unix.Close(pidfd)
	in.pidfd = pidfd
	if err := in.run(); err != nil {
		return nil, in.explain(err)
	}
	return in.report, nil
}

// inspection is one run of Process.
type inspection struct {
	pid    int
	pidfd  int
	dir    string // /proc/PID
	opts   Options
	status status
	root   string   // root directory of the process as the caller sees it
	shared []string // Options.Shared as the kernel names them
	// private is Options.Private likewise, without those that cannot be used.
	private []string
	broker  unix.Stat_t // of Options.Broker
	table   []*openFile
	// refused holds the spans of mappings that have a blocker: one is enough for each.
	refused map[string]bool
	report  *Report
}

func (in *inspection) run() error {
	var err error
	if in.status, err = readStatus(in.dir + "/status"); err != nil {
		return err
	}
	in.report.Comm = in.status.name
	in.report.Threads = in.status.threads
	in.report.Resident = in.status.resident
	ended, err := in.checkIdentity()
	if ended || err != nil {
		return err
	}
	in.resolveShared()
	in.resolvePrivate()
	if err := in.resolveBroker(); err != nil {
		return err
	}
	steps := []func() error{
		in.checkThreads, in.checkChildren, in.checkTimers, in.checkMappings, in.checkVMFlags, in.checkDescriptors,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	in.alwaysNote()
	if in.hasEnded() {
		return engine.ErrGone
	}
	return nil
}

// hasEnded tells whether the process has ended since the inspection began.
func (in *inspection) hasEnded() bool {
	fds := []unix.PollFd{{Fd: int32(in.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// explain gives err of a failed step its meaning: reads of a process that goes away fail in many ways.
func (in *inspection) explain(err error) error {
	gone := errors.Is(err, engine.ErrGone) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, fs.ErrNotExist) && in.hasEnded()
	if gone {
		return fmt.Errorf("process %d (%s): ended while it was inspected: %w", in.pid, in.status.name, engine.ErrGone)
	}
	return fmt.Errorf("process %d (%s): %w", in.pid, in.status.name, err)
}

func (in *inspection) notLeader() error {
	st, err := readStatus(in.dir + "/status")
	if err != nil {
		return fmt.Errorf("process %d: no such process: %w", in.pid, engine.ErrGone)
	}
	return fmt.Errorf("%d (%s): %w; way out: name its process, %d", in.pid, st.name, ErrThread, st.tgid)
}

func (in *inspection) block(object, reason, wayOut string) {
	in.report.Blockers = append(in.report.Blockers, engine.Blocker{Object: object, Reason: reason, WayOut: wayOut})
}

func (in *inspection) note(object, text string) {
	in.report.Notes = append(in.report.Notes, Note{Object: object, Text: text})
}

func (o *Options) engine() string {
	if o.Engine == "" {
		return EngineFork
	}
	return o.Engine
}

// inPlace tells whether instances are swapped within the process instead of being forks of it.
func (in *inspection) inPlace() bool { return in.opts.engine() == EngineKmod }

// alwaysNote adds what holds for every process.
func (in *inspection) alwaysNote() {
	in.note("random numbers", "a random generator seeded in user space goes on identically in every instance, "+
		"unless its state is in a MADV_WIPEONFORK region")
	if !in.opts.Deep {
		in.note("memory advice", "device memory was not looked for")
	}
}

// self is the caller's own status: its capabilities decide what may be done to others.
func self() (status, error) {
	// The thread's own file: capabilities are per thread, and the leader may have exited.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return readStatus("/proc/thread-self/status")
}
