package vm_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/integration/vm"
	"corsa.dev/corsa/integration/vm/vmtest"
)

// each runs a test on every kernel.
func each(t *testing.T, test func(t *testing.T, k vm.Kernel)) {
	for _, k := range vmtest.Kernels(t) {
		t.Run(k.Name, func(t *testing.T) { test(t, k) })
	}
}

// script runs a shell script in a VM, which has to be without complaint, and returns what it printed.
func script(t *testing.T, o vm.Options, text string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	o.Stdout, o.Stderr = &stdout, &stderr
	o.Command = []string{"sh", "-ec", text}
	r, err := vm.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Code != 0 {
		t.Fatalf("the script ended with %d\n%s%s", r.Code, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// What a command says, leaves and returns arrives as it is, and it finds what it was promised.
func TestRun(t *testing.T) {
	each(t, func(t *testing.T, k vm.Kernel) {
		host := t.TempDir()
		for name, text := range map[string]string{"in/a b": "spaces", "in/deep/er": "below", "prog": "#!/bin/sh\necho \"$0\" \"$@\"\n"} {
			path := filepath.Join(host, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		var stdout, stderr bytes.Buffer
		out := t.TempDir()
		r, err := vm.Run(t.Context(), vm.Options{
			Kernel: k.Name, SMP: 2, Programs: []string{"bash"}, Env: []string{"WORDS=it's $HOME"}, Dir: "/tmp/in", Output: out,
			Files: []vm.File{{Host: filepath.Join(host, "in"), Guest: "/tmp/in"}, {Host: filepath.Join(host, "prog"), Guest: "/bin/prog"}},
			Command: []string{"bash", "-c", `
				uname -r; pwd; cat "a b" deep/er; echo; echo "$WORDS"; prog "$@"
				grep -c ^processor /proc/cpuinfo
				for m in "/ ext4" "/tmp tmpfs" "/dev/pts devpts" "/dev/shm tmpfs" "/sys/fs/cgroup cgroup2" "/dev/mqueue mqueue"; do
					grep -q " ${m/ / } " /proc/mounts || echo "no mount of $m"
				done
				ping -c 1 127.0.0.1 >/dev/null || echo no loopback
				mkdir -p $VM_OUT/x/y; echo kept >$VM_OUT/x/y/z; head -c 3000000 /dev/zero >$VM_OUT/large
				echo complaint >&2
				exit 200`, "bash", "one", "t'w o", "$three"},
			Stdout: &stdout, Stderr: &stderr,
		})
		if err != nil {
			t.Fatal(err)
		}
		want := k.Release + "\n/tmp/in\nspacesbelow\nit's $HOME\n/bin/prog one t'w o $three\n2\n"
		if got := strings.Replace(stdout.String(), "/usr/bin/prog", "/bin/prog", 1); got != want {
			t.Errorf("stdout is\n%s\nwant\n%s", got, want)
		}
		if stderr.String() != "complaint\n" || r.Code != 200 {
			t.Errorf("stderr %q, exit code %d", stderr.String(), r.Code)
		}
		if text, err := os.ReadFile(filepath.Join(out, "x/y/z")); string(text) != "kept\n" {
			t.Errorf("the file of the VM holds %q (%v)", text, err)
		}
		if info, err := os.Stat(filepath.Join(out, "large")); err != nil || info.Size() != 3000000 {
			t.Errorf("a large file of the VM: %v, %v", info, err)
		}
		if !strings.Contains(r.Dmesg, "Linux version "+k.Release) {
			t.Errorf("the log does not begin with the kernel's version:\n%s", r.Dmesg)
		}
	})
}

// Every fault of the kernel makes the run fail, although the command is content, and the console shows it.
func TestFaults(t *testing.T) {
	each(t, func(t *testing.T, k vm.Kernel) {
		module := "insmod /root/fault.ko fault="
		faults := map[string][2]string{ // what to do, and what to find
			"panic": {"echo c >/proc/sysrq-trigger", "Kernel panic"},
			"warn":  {module + "warn", "asked for a warning"},
			"oops":  {module + "oops", "NULL pointer|unable to handle|general protection fault"},
			"cache": {module + "cache && rmmod fault", "fault"},
			"stall": {module + "stall", "stall|soft lockup"},
		}
		if k.Debug {
			faults["leak"] = [2]string{module + "leak && rmmod fault", "unreferenced object"}
			faults["atomic"] = [2]string{module + "atomic", "sleeping function|scheduling while atomic"}
		}
		for name, f := range faults {
			t.Run(name, func(t *testing.T) {
				_, err := vm.Run(t.Context(), vm.Options{
					Kernel: k.Name, SMP: 2, KernelArgs: []string{"watchdog_thresh=2"}, Command: []string{"sh", "-c", f[0] + "; true"},
					Files: []vm.File{{Host: k.Selftest("fault/fault.ko"), Guest: "/root/fault.ko"}},
				})
				var fault *vm.KernelError
				if !errors.As(err, &fault) {
					t.Fatalf("the run gave %v", err)
				}
				for _, word := range strings.Split(f[1], "|") {
					if strings.Contains(fault.Console, word) {
						return
					}
				}
				t.Errorf("the console does not tell of %s:\n%v", f[1], fault)
			})
		}
	})
}

// A program's own misfortune is not the kernel's.
func TestNoFault(t *testing.T) {
	k := vmtest.Kernels(t)[0]
	crash := filepath.Join(t.TempDir(), "crash")
	if err := os.WriteFile(crash, []byte("#!/bin/sh\nkill -SEGV $$\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out := script(t, vm.Options{Kernel: k.Name, Files: []vm.File{{Host: crash, Guest: "/root/crash"}}}, `
		./crash && exit 1
		sh -c 'kill -ABRT $$' && exit 1
		echo "a BUG, a WARNING: and an Oops of a program" # to its own output, not to the console
		echo going on`)
	if !strings.HasSuffix(out, "going on\n") {
		t.Errorf("the script printed %q", out)
	}
}

// A VM that does not come to an end is ended, by its time or by its owner.
func TestEnd(t *testing.T) {
	k := vmtest.Kernels(t)[0]
	_, err := vm.Run(t.Context(), vm.Options{Kernel: k.Name, Timeout: 2 * time.Second, Command: []string{"sleep", "1000"}})
	if !errors.Is(err, vm.ErrTimeout) {
		t.Errorf("after its time the VM gave %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Second, cancel)
	if _, err := vm.Run(ctx, vm.Options{Kernel: k.Name, Command: []string{"sleep", "1000"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled VM gave %v", err)
	}
	_, err = vm.Run(t.Context(), vm.Options{Kernel: k.Name, Command: []string{"poweroff", "-f"}})
	if !errors.Is(err, vm.ErrNoStatus) {
		t.Errorf("a VM that was switched off gave %v", err)
	}
}

// A VM whose clock is fast says so: here the kernel takes the processor's counter for a tenth as fast as any is.
func TestClock(t *testing.T) {
	k := vmtest.Kernels(t)[0]
	_, err := vm.Run(t.Context(), vm.Options{
		Kernel: k.Name, KernelArgs: []string{"tsc_early_khz=100000"}, Command: []string{"sleep", "60"},
	})
	if !errors.Is(err, vm.ErrClock) {
		t.Errorf("a VM with a fast clock gave %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	k := vmtest.Kernels(t)[0]
	for name, c := range map[string]struct {
		o    vm.Options
		want string
	}{
		"kernel":  {vm.Options{Kernel: "2.4", Command: []string{"true"}}, `kernel "2.4"`},
		"command": {vm.Options{Kernel: k.Name}, "needs a command"},
		"module":  {vm.Options{Kernel: k.Name, Load: []string{"nfs"}, Command: []string{"true"}}, `"nfs"`},
		"file":    {vm.Options{Kernel: k.Name, Files: []vm.File{{Host: "/etc/no-such-file", Guest: "/x"}}, Command: []string{"true"}}, "/etc/no-such-file"},
		"guest":   {vm.Options{Kernel: k.Name, Files: []vm.File{{Host: "/etc/passwd", Guest: "x"}}, Command: []string{"true"}}, `"x"`},
		"program": {vm.Options{Kernel: k.Name, Programs: []string{"no-such-program"}, Command: []string{"true"}}, "no-such-program"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := vm.Run(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it gave %v, want something about %s", err, c.want)
			}
		})
	}
}
