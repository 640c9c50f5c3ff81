package enginetest

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"corsa.dev/corsa/runtime/engine"

	"golang.org/x/sys/unix"
)

// launch says how a service process is started.
type launch struct {
	pidNamespace bool // in a pid namespace of its own
	init         bool // with programs/init.c as its parent, which is pid 1 there
}

// process is a running test service that no engine has touched yet.
type process struct {
	program program
	binary  string
	dir     string
	addrs   []engine.Address
	cmd     *exec.Cmd
	service int // the service's pid: cmd's, or that of its child
	stderr  *messages
	waited  chan struct{} // closed when the process has been reaped
}

// start runs p and waits until it listens. Whatever processes of its binary are left at the end of the test are
// killed; subject.destroy is what complains about them.
func (s *suite) start(t *testing.T, p program, l launch) *process {
	t.Helper()
	dir := s.build.mkdir(t, p.name)
	// Each service has an executable of its own, by which its instances are found at the end.
	binary := filepath.Join(dir, p.name)
	if err := os.Link(s.build.binary(t, p), binary); err != nil {
		t.Fatal(err)
	}
	if p.private != "" {
		needOverlay(t)
		if err := os.Mkdir(filepath.Join(dir, p.private), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	pr := &process{program: p, binary: binary, dir: dir, stderr: new(messages), waited: make(chan struct{})}
	args := make([]string, 0, len(p.listen))
	for i, kind := range p.listen {
		a := engine.Address{Network: kind, Address: filepath.Join(dir, fmt.Sprintf("s%d", i))}
		arg := a.Address
		if kind == "tcp" {
			a.Address = freePort(t)
			arg = a.Address[strings.LastIndex(a.Address, ":")+1:]
		}
		pr.addrs = append(pr.addrs, a)
		args = append(args, arg)
	}
	argv := append([]string{binary}, args...)
	if l.init {
		argv = append([]string{s.build.binary(t, program{name: "init", path: "init.c"})}, argv...)
	}
	pr.cmd = exec.Command(argv[0], argv[1:]...)
	pr.cmd.Dir = dir
	// A pipe of our own: exec.Cmd's would make Wait wait for the instances, which inherit it. A file would be one
	// that is open for writing.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	pr.cmd.Stderr = w
	pr.cmd.SysProcAttr = &syscall.SysProcAttr{}
	if l.pidNamespace {
		pr.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	}
	err = pr.cmd.Start()
	_ = w.Close() // the process has its own
	if err != nil {
		_ = r.Close()
		t.Fatal(err)
	}
	go pr.stderr.collect(r)
	t.Cleanup(func() { pr.end(t) })
	go func() {
		// A wait by the parent would steal the stops of the engine's ptrace, which is in the same process here: so
		// wait for the death first.
		awaitDeath(pr.cmd.Process.Pid)
		_ = pr.cmd.Wait() // tests look at the process itself; how it ended is asserted where it matters
		close(pr.waited)
	}()
	pr.dial(t, 0).close()
	if pr.service = pr.cmd.Process.Pid; l.init {
		if pids := processesOf(binary); len(pids) == 1 {
			pr.service = pids[0]
		} else {
			t.Fatalf("the services of one init are the processes %v", pids)
		}
	}
	pr.settle(t)
	return pr
}

// needOverlay skips a test on a kernel that has no overlay file system.
func needOverlay(t *testing.T) {
	t.Helper()
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("this machine lacks overlay file systems (fsopen): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// lacking is the status with which a program ends that cannot be run on this machine; see svc_lack.
const lacking = 77

// lacks says what an optional program misses on this machine. Without addresses it goes no further than that.
func (s *suite) lacks(t *testing.T, p program) string {
	t.Helper()
	if !p.optional {
		return ""
	}
	cmd := exec.Command(s.build.binary(t, p))
	cmd.Dir = s.build.mkdir(t, p.name)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == lacking {
		return strings.TrimSpace(string(text))
	}
	return ""
}

// dial connects to the i-th listener of the process, waiting until it listens.
func (pr *process) dial(t *testing.T, i int) *conn {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		c, err := net.Dial(pr.addrs[i].Network, pr.addrs[i].Address)
		if err == nil {
			return &conn{t: t, nc: c}
		}
		select {
		case <-pr.waited:
			if pr.cmd.ProcessState.ExitCode() == lacking {
				t.Skipf("this machine lacks %s", pr.stderr)
			}
			t.Fatalf("%s ended before it listened: %s", pr.program.name, pr.stderr)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen: %v\n%s", pr.program.name, err, pr.stderr)
		}
		time.Sleep(time.Millisecond)
	}
}

// settle waits until the service has noticed that all connections of the test are closed.
func (pr *process) settle(t *testing.T) {
	t.Helper()
	c := pr.dial(t, 0)
	if !eventually(func() bool { return c.ask("open") == "1" }) {
		t.Fatalf("%s keeps %s connections open", pr.program.name, c.ask("open"))
	}
	before := sockets(t, pr.pid())
	c.close()
	if !eventually(func() bool { return len(sockets(t, pr.pid())) < len(before) }) {
		t.Fatalf("%s does not close a connection whose client is gone", pr.program.name)
	}
}

func (pr *process) pid() int { return pr.service }

// end kills and reaps what is left of the service.
func (pr *process) end(t *testing.T) {
	// The started process first: as an init it takes its pid namespace along.
	if err := pr.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	for _, pid := range processesOf(pr.binary) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("kill %d: %v", pid, err)
		}
	}
	select {
	case <-pr.waited:
	case <-time.After(patience):
		t.Errorf("process %d was killed but cannot be reaped", pr.pid())
	}
	if text := pr.stderr.String(); t.Failed() && text != "" {
		t.Logf("stderr of %s:\n%s", pr.program.name, text)
	}
}

// messages collects what a service and its instances write to their standard error.
type messages struct {
	mu   sync.Mutex
	text []byte
}

// collect reads r until the last process that holds the other end is gone.
func (m *messages) collect(r *os.File) {
	defer func() { _ = r.Close() }()
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		m.mu.Lock()
		m.text = append(m.text, buf[:n]...)
		m.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (m *messages) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.text)
}

// processesOf lists the pids whose executable is binary: the service, its instances, its images. They may be in other
// pid namespaces; the numbers are ours.
func processesOf(binary string) []int {
	var pids []int
	for pid, exe := range executables() {
		if exe == binary {
			pids = append(pids, pid)
		}
	}
	return pids
}

// executables yields the executable of every process.
func executables() iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		links, err := filepath.Glob("/proc/[0-9]*/exe")
		if err != nil {
			return // the pattern is right
		}
		for _, link := range links {
			exe, err := os.Readlink(link)
			if err != nil {
				continue // a kernel thread, or gone meanwhile
			}
			pid, err := strconv.Atoi(strings.Split(link, "/")[2])
			if err == nil && !yield(pid, strings.TrimSuffix(exe, " (deleted)")) {
				return
			}
		}
	}
}

// sockets returns the inodes of the sockets that pid holds.
func sockets(t *testing.T, pid int) map[uint64]bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	inodes := make(map[uint64]bool)
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed since
		}
		var inode uint64
		if _, err := fmt.Sscanf(target, "socket:[%d]", &inode); err == nil {
			inodes[inode] = true
		}
	}
	return inodes
}

// eventually waits for cond; it says whether it came true.
func eventually(cond func() bool) bool { return within(patience, cond) }

func within(limit time.Duration, cond func() bool) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if cond() {
			return true
		}
	}
	return cond()
}

// statusField reads one line of a /proc status file, "" if the task is gone.
func statusField(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// describe tells what every thread of pid does, for the message of a failure.
func describe(pid int) string {
	var b strings.Builder
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		return fmt.Sprintf("process %d is gone", pid)
	}
	for _, task := range tasks {
		call, err := os.ReadFile(task + "/syscall")
		if err != nil {
			call = []byte(err.Error())
		}
		fmt.Fprintf(&b, "thread %s: state %s, tracer %s, syscall %s\n", filepath.Base(task),
			statusField(task+"/status", "State"), statusField(task+"/status", "TracerPid"),
			strings.TrimSpace(string(call)))
	}
	return b.String()
}

// awaitDeath returns once the process has ended; it may not have been reaped.
func awaitDeath(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); n > 0 {
			return
		}
	}
}
