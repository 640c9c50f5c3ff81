package binderservice_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"corsa.dev/corsa/integration/vm"
	"corsa.dev/corsa/integration/vm/vmtest"
)

// The guest finds the programs here.
const (
	corsa = "/usr/bin/corsa"
	store = "/usr/bin/binderstore"
)

// The tests of this package pass in the VM.
func TestInVM(t *testing.T) {
	runGuests(t, "^TestGuest", "binder", "corsa")
}

// So do those for a host that has Binder and no corsa.ko.
func TestInBareVM(t *testing.T) {
	runGuests(t, "^TestBare", "binder")
}

// runGuests runs those tests in a VM with these modules, on each kernel.
func runGuests(t *testing.T, run string, load ...string) {
	t.Helper()
	if inVM() {
		t.Skip("this is the VM")
	}
	dir := t.TempDir()
	files := []vm.File{build(t, dir, "corsa.dev/corsa", corsa, "-tags", "seccomp")}
	files = append(files, build(t, dir, "corsa.dev/corsa/integration/services/binderstore", store))
	for _, k := range vmtest.Kernels(t) {
		t.Run(k.Name, func(t *testing.T) {
			if _, built := k.Module("corsa"); !built {
				t.Fatal("corsa.ko has not been built; run: make vm-deps")
			}
			vmtest.Run(t, vmtest.Suite{
				Package: ".", Args: []string{"-test.run=" + run}, NoSkips: true,
				Options: vm.Options{
					Kernel: k.Name, SMP: 2, Memory: 1024, Load: load, CorsaModule: os.Getenv(moduleVariable), Files: files,
				},
			})
		})
	}
}

// moduleVariable names an environment variable with the path of another corsa.ko than the cache's.
const moduleVariable = "CORSA_VM_MODULE"

func build(t *testing.T, dir, pkg, guest string, flags ...string) vm.File {
	t.Helper()
	path := filepath.Join(dir, filepath.Base(guest))
	args := append([]string{"build", "-trimpath", "-o", path}, flags...)
	if text, err := exec.Command("go", append(args, pkg)...).CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, text)
	}
	return vm.File{Host: path, Guest: guest}
}

func inVM() bool { return os.Getenv("VM_KERNEL") != "" }
