package gbinder_test

import (
	"os"
	"path/filepath"
	"testing"

	"corsa.dev/corsa/integration/vm"
	"corsa.dev/corsa/integration/vm/vmtest"
)

// The guest finds the packages in archive, and the tests unpack them to root.
const (
	archive = "/var/lib/gbinder.tar"
	root    = "/gbinder"
)

// The tests of this package pass in the VM.
func TestInVM(t *testing.T) {
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
	for _, k := range vmtest.Kernels(t) {
		t.Run(k.Name, func(t *testing.T) {
			vmtest.Run(t, vmtest.Suite{
				Package: ".", Args: []string{"-test.run=^TestGuest"}, NoSkips: true,
				Options: vm.Options{
					Kernel: k.Name, SMP: 2, Memory: 1024, Load: []string{"binder"},
					Files: []vm.File{{Host: packages, Guest: archive}, {Host: "testdata", Guest: root + "/opt"}},
				},
			})
		})
	}
}

func inVM() bool { return os.Getenv("VM_KERNEL") != "" }
