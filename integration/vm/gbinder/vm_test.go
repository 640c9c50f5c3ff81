package gbinder_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"corsa.dev/corsa/integration/vm"
	"corsa.dev/corsa/integration/vm/vmtest"
)

// The guest finds the packages in archive, and the tests unpack them to root.
const (
	archive = "/var/lib/gbinder.tar"
	root    = "/gbinder"
)

// Our service manager serves the real programs, in each protocol that they know.
func TestProtocolsInVM(t *testing.T) {
	run(t, "^TestGuestProtocols", vm.Options{SMP: 2, Memory: 1024, Load: []string{"binder"}})
}

// Waydroid's clipboard is one for all users, and behind the module's gate each has one.
func TestClipboardInVM(t *testing.T) {
	run(t, "^TestGuestClipboard", vm.Options{SMP: 2, Memory: 1024, Load: []string{"binder", "corsa"}}, crowdCalls(20000)...)
}

// So it is when corsa runs it.
func TestServedClipboardInVM(t *testing.T) {
	corsa := os.Getenv("CORSA_BIN")
	if corsa == "" && !inVM() {
		corsa = filepath.Join(t.TempDir(), "corsa")
		if text, err := exec.Command("go", "build", "-tags", "seccomp", "-o", corsa, "../../..").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, text)
		}
	}
	run(t, "^TestGuestServed", vm.Options{
		SMP: 2, Memory: 1536, Load: []string{"binder", "corsa"}, Files: []vm.File{{Host: corsa, Guest: corsaBin}},
	}, crowdCalls(100000)...)
}

// longVariable names an environment variable that has tests repeat more.
const longVariable = "CORSA_VM_LONG"

// crowdCalls has the crowd make that many calls where tests are to repeat more.
func crowdCalls(long int) []string {
	if os.Getenv(longVariable) == "" {
		return nil
	}
	return []string{fmt.Sprint("-calls=", long)}
}

// run runs those tests of this package in the VM, on each kernel.
func run(t *testing.T, tests string, o vm.Options, args ...string) {
	t.Helper()
	if inVM() {
		t.Skip("this is the VM")
	}
	cache, err := vm.Cache()
	if err != nil {
		t.Fatal(err)
	}
	packages := filepath.Join(cache, "gbinder.tar")
	if _, err := os.Stat(packages + ".packages"); err != nil {
		t.Skip("libgbinder: not there; run: make vm-deps")
	}
	o.Timeout = 20 * time.Minute
	if os.Getenv(longVariable) != "" {
		o.Timeout = 2 * time.Hour
	}
	o.Files = append(o.Files, vm.File{Host: packages, Guest: archive}, vm.File{Host: "testdata", Guest: root + "/opt"})
	for _, k := range vmtest.Kernels(t) {
		t.Run(k.Name, func(t *testing.T) {
			o.Kernel = k.Name
			vmtest.Run(t, vmtest.Suite{Package: ".", Args: append([]string{"-test.run=" + tests}, args...), NoSkips: true, Options: o})
		})
	}
}

func inVM() bool { return os.Getenv("VM_KERNEL") != "" }
