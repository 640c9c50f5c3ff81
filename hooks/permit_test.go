package hooks_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/hooks"
)

// opener is a shell in a cgroup of its own that opens what it is told, and says how that went.
type opener struct {
	cmd   *exec.Cmd
	stdin io.Writer
	out   *bufio.Reader
}

// startIn starts an opener in a new cgroup below the mounted hierarchy, which goes away with the test.
func startIn(t *testing.T, hierarchy string) (*opener, string) {
	t.Helper()
	dir := filepath.Join(hierarchy, fmt.Sprintf("corsa-hook-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			err := unix.Rmdir(dir)
			if err == nil || errors.Is(err, unix.ENOENT) {
				return
			}
			if time.Now().After(end) {
				t.Errorf("remove %s: %v", dir, err)
				return
			}
		}
	})
	cmd := exec.Command("sh", "-c", `while read -r f; do if (: <"$f") 2>/dev/null; then echo yes; else echo no; fi; done`)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	return &opener{cmd, stdin, bufio.NewReader(stdout)}, dir
}

func (o *opener) can(t *testing.T, path string) bool {
	t.Helper()
	if _, err := fmt.Fprintln(o.stdin, path); err != nil {
		t.Fatal(err)
	}
	line, err := o.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line == "yes\n"
}

// hierarchy finds where one is mounted.
func hierarchy(t *testing.T, kind, controller string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	dir := hooks.CgroupDirectory(string(text), kind, controller, "/")
	if dir == "" {
		t.Skipf("%s %s: not mounted on this host", kind, controller)
	}
	if os.Geteuid() != 0 {
		t.Skip("root: making cgroups needs it")
	}
	return dir
}

var (
	zero = hooks.NewNumber(1, 5)
	full = hooks.NewNumber(1, 7)
)

// check permits two of three devices that are forbidden, in two steps.
func check(t *testing.T, o *opener) {
	t.Helper()
	for _, path := range []string{"/dev/zero", "/dev/full", "/dev/random"} {
		if o.can(t, path) {
			t.Fatalf("%s could be opened before anything was permitted", path)
		}
	}
	if !o.can(t, "/dev/null") {
		t.Fatal("what was permitted from the beginning is not")
	}
	for i, n := range []hooks.Number{zero, full} {
		if err := hooks.Allow(o.cmd.Process.Pid, []hooks.Number{n}); err != nil {
			t.Fatal(err)
		}
		if got := o.can(t, "/dev/full"); got != (i == 1) {
			t.Errorf("after %d permissions /dev/full can be opened: %t", i+1, got)
		}
		if !o.can(t, "/dev/zero") || !o.can(t, "/dev/null") || o.can(t, "/dev/random") {
			t.Errorf("after %d permissions: zero %t, null %t, random %t", i+1, o.can(t, "/dev/zero"), o.can(t, "/dev/null"), o.can(t, "/dev/random"))
		}
	}
}

func TestPermitByList(t *testing.T) {
	o, dir := startIn(t, hierarchy(t, "cgroup", "devices"))
	for _, w := range []struct{ file, text string }{{"devices.deny", "a"}, {"devices.allow", "c 1:3 rw"}} {
		if err := os.WriteFile(filepath.Join(dir, w.file), []byte(w.text), 0); err != nil {
			t.Fatal(err)
		}
	}
	check(t, o)
}

// A program that permits /dev/null only goes on to do so, however it was attached.
func TestPermitByProgram(t *testing.T) {
	for name, flags := range map[string]uint32{"multi": unix.BPF_F_ALLOW_MULTI, "only": 0, "override": unix.BPF_F_ALLOW_OVERRIDE} {
		t.Run(name, func(t *testing.T) {
			o, dir := startIn(t, hierarchy(t, "cgroup2", ""))
			program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupDevice, License: "Apache-2.0", Instructions: asm.Instructions{
				asm.Mov.Imm(asm.R0, 0),
				asm.LoadMem(asm.R3, asm.R1, 4, asm.Word),
				asm.JNE.Imm(asm.R3, 1, "end"),
				asm.LoadMem(asm.R3, asm.R1, 8, asm.Word),
				asm.JNE.Imm(asm.R3, 3, "end"),
				asm.Mov.Imm(asm.R0, 1),
				asm.Return().WithSymbol("end"),
			}})
			if errors.Is(err, ebpf.ErrNotSupported) {
				t.Skip("BPF programs of cgroups: not on this kernel")
			}
			if err != nil {
				t.Fatal(err)
			}
			defer program.Close()
			cgroup, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer cgroup.Close()
			if err := link.RawAttachProgram(link.RawAttachProgramOptions{
				Target: int(cgroup.Fd()), Program: program, Attach: ebpf.AttachCGroupDevice, Flags: flags,
			}); err != nil {
				t.Fatal(err)
			}
			check(t, o)
		})
	}
}

// Where nothing is forbidden there is nothing to be done.
func TestPermitNothing(t *testing.T) {
	o, _ := startIn(t, hierarchy(t, "cgroup2", ""))
	if err := hooks.Allow(o.cmd.Process.Pid, []hooks.Number{zero}); err != nil {
		t.Error(err)
	}
	if !o.can(t, "/dev/full") {
		t.Error("a device is forbidden now")
	}
	if err := hooks.Allow(1<<22+1, []hooks.Number{zero}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/proc/") {
		t.Errorf("a process that does not exist: %v", err)
	}
}
