// Package vmtest runs Go test binaries in a VM and reports what they did as subtests.
package vmtest

import (
	"os"
	"strings"
	"testing"

	"corsa.dev/corsa/integration/vm"
)

// KernelsVariable names an environment variable that lists the kernels on which tests have to run ("6.1 6.12"). A
// kernel of the list that is missing makes them fail. Without the variable they run on what is there.
const KernelsVariable = "CORSA_VM_KERNELS"

// Kernels returns the kernels on which to test. Without any it skips the test. Kernels for debugging are only used
// when they are asked for.
func Kernels(t *testing.T) []vm.Kernel {
	t.Helper()
	if asked := strings.Fields(os.Getenv(KernelsVariable)); len(asked) > 0 {
		kernels := make([]vm.Kernel, 0, len(asked))
		for _, name := range asked {
			k, err := vm.FindKernel(name)
			if err != nil {
				t.Fatal(err)
			}
			kernels = append(kernels, k)
		}
		return kernels
	}
	all, err := vm.Kernels()
	if err != nil {
		t.Fatal(err)
	}
	var kernels []vm.Kernel
	for _, k := range all {
		if !k.Debug {
			kernels = append(kernels, k)
		}
	}
	if len(kernels) == 0 {
		t.Skip("no kernel to boot; run: make vm-deps")
	}
	return kernels
}
