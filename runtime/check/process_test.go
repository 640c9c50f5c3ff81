package check

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/check/holdertest"
	"corsa.dev/corsa/runtime/engine"
)

func TestRefusalsWithoutArguments(t *testing.T) {
	const span = `[0-9a-f]+-[0-9a-f]+`
	for _, test := range []struct {
		mode string
		deep bool
		kmod bool
		want []string
	}{
		{mode: "io_uring", want: []string{`fd 17 \(io_uring\)`, `mapping ` + span + ` \(io_uring\)`}},
		{mode: "aio", want: []string{`mapping ` + span + ` \(/\[aio\].*\)`}},
		{mode: "userfaultfd", want: []string{`fd 17 \(userfaultfd\)`}},
		{mode: "perf", want: []string{`fd 17 \(perf_event\)`}},
		{mode: "bpf", want: []string{`fd 17 \(bpf-map\)`}},
		{mode: "inotify"},
		{mode: "inotify", kmod: true, want: []string{`fd 17 \(inotify\)`}},
		{mode: "inotify_waiting", want: []string{`fd 17 \(inotify\)`}},
		{mode: "fanotify", want: []string{`fd 17 \(fanotify\)`}},
		{mode: "pidfd", want: []string{fmt.Sprintf(`fd 17 \(pidfd of process %d\)`, os.Getpid())}},
		{mode: "netlink", want: []string{`fd 17 \(netlink socket\)`}},
		{mode: "packet", want: []string{`fd 17 \(packet socket\)`}},
		{mode: "procfile", want: []string{`fd 17 \(/proc/\d+/stat\)`}},
		{mode: "memfd", want: []string{`fd 17 \(memfd:cache\)`}},
		{mode: "tcp_fresh", want: []string{`fd 17 \(tcp socket.*\)`}},
		{mode: "dgram_pair"},
		{mode: "dgram_pair", kmod: true, want: []string{`fd 17 \(unix datagram socket pair\)`, `fd 18 \(unix datagram socket pair\)`}},
		{mode: "hung_up", want: []string{`fd 17 \(unix stream socket\)`}},
		{mode: "in_flight", want: []string{`fd 18 \(unix stream socket\)`}},
		{mode: "sysv", want: []string{`mapping ` + span + ` \(/SYSV00000000 \(deleted\)\)`}},
		{mode: "memfd_mapped", want: []string{`mapping ` + span + ` \(/memfd:cache \(deleted\)\)`}},
		{mode: "hugetlb", want: []string{`mapping ` + span + ` \(/anon_hugepage \(deleted\)\)`}},
		{mode: "hugetlb", deep: true, want: []string{`mapping ` + span + ` \(/anon_hugepage \(deleted\)\)`}},
		{mode: "dontfork", deep: true},
		{mode: "locked_memory"},
		{mode: "locked_memory", kmod: true, want: []string{`mapping ` + span}},
		{mode: "child", want: []string{`child \d+ \(helper\)`}},
		{mode: "zombie", want: []string{`child \d+ \(helper\)`}},
		{mode: "traced", want: []string{`tracer \d+ \(helper\)`, `child \d+ \(helper\)`}},
		{mode: "timer"},
		{mode: "timer", kmod: true, want: []string{`timer 0 \(POSIX, clock 1\)`}},
		{mode: "thread_files", want: []string{`thread \d+ \(worker\)`}},
		{mode: "thread_directory", want: []string{`thread \d+ \(worker\)`}},
		{mode: "thread_network", want: []string{`thread \d+ \(worker\)`}},
		{mode: "thread_ids", want: []string{`thread \d+ \(worker\)`}},
		{mode: "thread_filter", want: []string{`thread \d+ \(worker\)`}},
		{mode: "pending"},
		{mode: "pending", kmod: true, want: []string{`thread \d+ \(signal 10\)`, `signal 10`}},
		{mode: "async_io", want: []string{`fd 17 \(socket:\[\d+\]\)`}},
		{mode: "stale_epoll"},
		{mode: "stale_epoll", kmod: true, want: []string{`fd 17 \(epoll entry for fd 18\)`}},
		{mode: "gone_epoll", want: []string{`fd 17 \(epoll entry for fd 18\)`, `child \d+ \(helper\)`}},
		{mode: "nothing", deep: true},
	} {
		t.Run(fmt.Sprintf("%s,deep=%t,kmod=%t", test.mode, test.deep, test.kmod), func(t *testing.T) {
			pid := startHolder(t, nil, test.mode)
			o := Options{Deep: test.deep}
			if test.kmod {
				o.Engine = EngineKmod
			}
			wantBlockers(t, inspect(t, pid, o), test.want...)
		})
	}
}

// The reasons of what looks alike must differ: they say what is the matter.
func TestReasonsTellThreadsApart(t *testing.T) {
	for mode, want := range map[string]string{
		"thread_files": "open files", "thread_directory": "working directory", "thread_network": "net namespace",
		"thread_ids": "user ids", "thread_filter": "seccomp filter",
	} {
		t.Run(mode, func(t *testing.T) {
			report := inspect(t, startHolder(t, nil, mode), Options{})
			if len(report.Blockers) != 1 || !strings.Contains(report.Blockers[0].Reason, want) {
				t.Errorf("blockers %v do not speak of %q", report.Blockers, want)
			}
		})
	}
}

func TestSupported(t *testing.T) {
	file := tempFile(t)
	pid := startHolder(t, nil, "clean", file, filepath.Dir(file))
	report := inspect(t, pid, Options{Deep: true})
	wantBlockers(t, report)
	if err := report.Err(); err != nil {
		t.Errorf("Err() = %v", err)
	}
	if report.Threads != 2 || report.Comm != "holder" {
		t.Errorf("threads %d, comm %q", report.Threads, report.Comm)
	}
	want := map[int]Kind{
		17: KindEpoll, 18: KindEventfd, 19: KindTimerfd, 20: KindSignalfd, 21: KindPipe, 22: KindPipe,
		23: KindSocketPair, 24: KindSocketPair, 25: KindDevice, 26: KindDevice, 27: KindFile, 28: KindDirectory, 29: KindPath,
	}
	for _, fd := range report.FDs {
		if kind, ok := want[fd.FD]; ok && kind != fd.Kind {
			t.Errorf("fd %d is %q, want %q", fd.FD, fd.Kind, kind)
		}
		delete(want, fd.FD)
		if internal := fd.FD >= 21 && fd.FD <= 24; fd.Internal != internal {
			t.Errorf("fd %d: internal = %t", fd.FD, fd.Internal)
		}
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
}

func TestFiles(t *testing.T) {
	file := tempFile(t)
	dir := filepath.Dir(file)
	quoted := regexp.QuoteMeta(file)
	for _, test := range []struct {
		mode   string
		want   string
		shared bool // the object is fine when it is declared
	}{
		{"file", `fd 17 \(` + quoted + `\)`, true},
		{"shared_file", `mapping [0-9a-f-]+ \(` + quoted + `\)`, true},
		{"locked_file", `fd 17 \(` + quoted + `\)`, false},
		{"posix_lock", `fd 17 \(` + quoted + `\)`, false},
		{"deleted", `fd 17 \(` + regexp.QuoteMeta(dir) + `/data.db \(deleted\)\)`, false},
	} {
		t.Run(test.mode, func(t *testing.T) {
			pid := startHolder(t, nil, test.mode, file)
			report := inspect(t, pid, Options{Shared: []string{dir + "x", dir + "/dat"}})
			wantBlockers(t, report, test.want)
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{file, dir, link, "/"} {
				report := inspect(t, pid, Options{Shared: []string{path}})
				if test.shared {
					wantBlockers(t, report)
					if !hasNote(report, "declared shared") {
						t.Errorf("--shared %s: no note in %v", path, report.Notes)
					}
				} else {
					wantBlockers(t, report, test.want)
				}
			}
		})
	}
}

func TestPipesAndDevices(t *testing.T) {
	fifo := mkfifo(t)
	wantBlockers(t, inspect(t, startHolder(t, nil, "fifo", fifo), Options{}), `fd 17 \(`+regexp.QuoteMeta(fifo)+`\)`)
	queue := fmt.Sprintf("/corsa-check-%d", os.Getpid())
	wantBlockers(t, inspect(t, startHolder(t, nil, "mqueue", queue), Options{}), `fd 17 \(message queue `+queue+`.*\)`)
	wantBlockers(t, inspect(t, startHolder(t, nil, "device", "/dev/ptmx"), Options{}), `fd 17 \(/dev/ptmx\)`)
	t.Run("other device", func(t *testing.T) {
		wantBlockers(t, inspect(t, startHolder(t, nil, "device", "/dev/kmsg"), Options{}), `fd 17 \(/dev/kmsg, device 1:11\)`)
	})
	t.Run("block device", func(t *testing.T) {
		wantBlockers(t, inspect(t, startHolder(t, nil, "device", "/dev/loop0"), Options{}), `fd 17 \(/dev/loop0\)`)
	})

	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	cmd := exec.Command(holderBinary, "nothing")
	cmd.ExtraFiles = []*os.File{reader}
	wantBlockers(t, inspect(t, holdertest.Start(t, cmd), Options{}), `fd 3 \(pipe:\[\d+\]\)`)
	cmd = exec.Command(holderBinary, "nothing")
	cmd.ExtraFiles = []*os.File{writer}
	report := inspect(t, holdertest.Start(t, cmd), Options{})
	wantBlockers(t, report)
	if !hasNote(report, "fd 3 (pipe:[") {
		t.Errorf("no note on the pipe to the outside: %v", report.Notes)
	}
}

func TestWipeOnForkIsANote(t *testing.T) {
	pid := startHolder(t, nil, "wipeonfork")
	report := inspect(t, pid, Options{Deep: true})
	wantBlockers(t, report)
	if !hasNote(report, "WIPEONFORK: ") {
		t.Errorf("notes: %v", report.Notes)
	}
}

func TestSeccompStrict(t *testing.T) {
	pid := startHolder(t, nil, "strict")
	eventually(t, "strict mode", func() bool {
		st, err := readStatus(fmt.Sprintf("/proc/%d/status", pid))
		return err == nil && st.seccomp == 1
	})
	wantBlockers(t, inspect(t, pid, Options{}), fmt.Sprintf(`process %d \(holder\)`, pid))
}

func TestLeaderGone(t *testing.T) {
	pid := startHolder(t, nil, "leader_exit")
	eventually(t, "exit of the first thread", func() bool {
		st, err := readStatus(fmt.Sprintf("/proc/%d/status", pid))
		return err == nil && st.state == 'Z'
	})
	wantBlockers(t, inspect(t, pid, Options{}), fmt.Sprintf(`thread %d`, pid))
}

func TestStopped(t *testing.T) {
	pid := startHolder(t, nil, "nothing")
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "stop", func() bool {
		st, err := readStatus(fmt.Sprintf("/proc/%d/status", pid))
		return err == nil && st.state == 'T'
	})
	wantBlockers(t, inspect(t, pid, Options{}), fmt.Sprintf(`process %d \(holder\)`, pid))
}

func TestFirstOfPIDNamespace(t *testing.T) {
	pid := startHolder(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, "nothing")
	report := inspect(t, pid, Options{})
	wantBlockers(t, report, fmt.Sprintf(`process %d \(holder\)`, pid))
	if !strings.Contains(report.Blockers[0].Reason, "pid 1") {
		t.Error(report.Blockers[0])
	}
}

func TestZombieItself(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }() // it exits 0
	eventually(t, "zombie", func() bool {
		st, err := readStatus(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		return err == nil && st.state == 'Z'
	})
	wantBlockers(t, inspect(t, cmd.Process.Pid, Options{}), fmt.Sprintf(`process %d \(.*\)`, cmd.Process.Pid))
}

func TestKernelThread(t *testing.T) {
	const kthreadd = 2
	report, err := Process(kthreadd, Options{})
	if err != nil || report.Comm != "kthreadd" {
		t.Skip("pid 2 is not kthreadd: the test runs in a pid namespace")
	}
	wantBlockers(t, report, `process 2 \(kthreadd\)`)
}

// elf32 is a program for i386 that prints "ready" and then reads standard input until it ends:
// write(1, "ready\n", 6); read(0, esp, 1); exit(0).
var elf32 = func() []byte {
	const base = 0x8048000
	code := []byte{
		0xb8, 4, 0, 0, 0, 0xbb, 1, 0, 0, 0, 0xb9, 0, 0, 0, 0, 0xba, 6, 0, 0, 0, 0xcd, 0x80,
		0xb8, 3, 0, 0, 0, 0xbb, 0, 0, 0, 0, 0x89, 0xe1, 0xba, 1, 0, 0, 0, 0xcd, 0x80,
		0xb8, 1, 0, 0, 0, 0xbb, 0, 0, 0, 0, 0xcd, 0x80,
	}
	const headers = 52 + 32
	text := uint32(base + headers + len(code))
	copy(code[11:], []byte{byte(text), byte(text >> 8), byte(text >> 16), byte(text >> 24)})
	size := byte(headers + len(code) + 6)
	head := []byte{
		0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 1, 0, 0, 0,
		headers, 0x80, 0x04, 0x08, 52, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0,
		1, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x04, 0x08, 0, 0x80, 0x04, 0x08, size, 0, 0, 0, size, 0, 0, 0, 5, 0, 0, 0, 0, 0x10, 0, 0,
	}
	return append(append(head, code...), "ready\n"...)
}()

func Test32Bit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(path, elf32, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	if err := exec.Command(path).Run(); errors.Is(err, unix.ENOEXEC) {
		t.Skip("this kernel has no IA32 emulation")
	}
	pid := holdertest.Start(t, cmd)
	report := inspect(t, pid, Options{})
	wantBlockers(t, report, fmt.Sprintf(`process %d \(small\)`, pid))
	if !strings.Contains(report.Blockers[0].Reason, "32-bit") {
		t.Error(report.Blockers[0])
	}
}

// asNobody runs fn on a thread that has given up uid and capabilities; the thread ends with it.
func asNobody(fn func()) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: no other goroutine may get this thread
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			done <- errno
			return
		}
		fn()
		done <- nil
	}()
	return <-done
}

func TestNoPermission(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed to start as another user")
	}
	pid := startHolder(t, nil, "filter")
	var report *Report
	var failed error
	if err := asNobody(func() { report, failed = Process(pid, Options{}) }); err != nil {
		t.Fatal(err)
	}
	if failed != nil {
		t.Fatal(failed)
	}
	wantBlockers(t, report, fmt.Sprintf(`process %d \(holder\)`, pid))
	if !strings.Contains(report.Blockers[0].Reason, "CAP_SYS_PTRACE") {
		t.Error(report.Blockers[0])
	}
}

// A service of another user is as open to root as its own.
func TestOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed to start as another user")
	}
	const nobody = 65534
	pid := startHolder(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}, "nothing")
	report := inspect(t, pid, Options{Deep: true})
	wantBlockers(t, report)
	if !hasNote(report, "CAP_SYS_ADMIN") {
		t.Errorf("no note on the ids of instances: %v", report.Notes)
	}
}

func TestRefusalIsAnError(t *testing.T) {
	pid := startHolder(t, nil, "io_uring")
	err := inspect(t, pid, Options{}).Err()
	var refusal *engine.Refusal
	if !errors.Is(err, engine.ErrRefused) || !errors.As(err, &refusal) || refusal.PID != pid || len(refusal.Blockers) != 2 {
		t.Fatalf("Err() = %#v", err)
	}
	if text := err.Error(); !strings.Contains(text, "fd 17 (io_uring)") || !strings.Contains(text, "way out") {
		t.Error(text)
	}
}

func TestNotAProcess(t *testing.T) {
	for _, pid := range []int{0, -1} {
		if _, err := Process(pid, Options{}); err == nil {
			t.Errorf("Process(%d) gave no error", pid)
		}
	}
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := Process(cmd.Process.Pid, Options{}); !errors.Is(err, engine.ErrGone) {
		t.Errorf("of a dead process: %v", err)
	}
	pid := startHolder(t, nil, "thread_filter")
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		var tid int
		if _, err := fmt.Sscan(entry.Name(), &tid); err != nil {
			t.Fatal(err)
		}
		if tid == pid {
			continue
		}
		if _, err := Process(tid, Options{}); !errors.Is(err, ErrThread) || !strings.Contains(err.Error(), fmt.Sprint(pid)) {
			t.Errorf("of thread %d: %v", tid, err)
		}
	}
}

// Inspecting leaves no descriptor open, in the caller or in the process.
func TestLeavesNothing(t *testing.T) {
	file := tempFile(t)
	pid := startHolder(t, nil, "clean", file, filepath.Dir(file))
	count := func(dir string) int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	theirs := fmt.Sprintf("/proc/%d/fd", pid)
	inspect(t, pid, Options{Deep: true})
	before, beforeTheirs := count("/proc/self/fd"), count(theirs)
	for range 5 {
		inspect(t, pid, Options{Deep: true, Shared: []string{"/var", "/none"}})
	}
	if after := count("/proc/self/fd"); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if after := count(theirs); after != beforeTheirs {
		t.Errorf("of the process: %d descriptors before, %d after", beforeTheirs, after)
	}
}

func BenchmarkProcess(b *testing.B) {
	cmd := exec.Command(holderBinary, "nothing")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer stdin.Close()
	for _, deep := range []bool{false, true} {
		b.Run(fmt.Sprintf("deep=%t", deep), func(b *testing.B) {
			for b.Loop() {
				if _, err := Process(cmd.Process.Pid, Options{Deep: deep}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
