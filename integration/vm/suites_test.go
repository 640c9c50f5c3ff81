package vm_test

import (
	"bytes"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/integration/vm"
	"corsa.dev/corsa/integration/vm/vmtest"
)

// enginesVariable names an environment variable that lists the engines whose tests are run in the VM.
const enginesVariable = "CORSA_VM_ENGINES"

// longVariable names an environment variable that has the suites repeat as much as they do on the host.
const longVariable = "CORSA_VM_LONG"

// argsVariable names an environment variable with arguments for the conformance suite's own binary, after all others:
// "-test.run=TestConformance/dormant -test.count=20" repeats a part of it.
const argsVariable = "CORSA_VM_TEST_ARGS"

func engines() []string {
	if asked := strings.Fields(os.Getenv(enginesVariable)); len(asked) > 0 {
		return asked
	}
	return []string{"kmod"} // the others' run on the host
}

// Each engine passes the conformance suite on each kernel.
func TestConformance(t *testing.T) {
	for _, engine := range engines() {
		t.Run(engine, func(t *testing.T) {
			each(t, func(t *testing.T, k vm.Kernel) {
				// A suite holds ten states of 128 MiB at a time. Memory that is not used costs the host nothing.
				o := vm.Options{Kernel: k.Name, SMP: 2, Memory: 3072, Timeout: 25 * time.Minute}
				if engine == "kmod" {
					o.Load = loadCorsa(t, k)
				}
				var args []string
				if os.Getenv(longVariable) == "" {
					args = []string{"-test.short"}
				}
				args = append(args, strings.Fields(os.Getenv(argsVariable))...)
				vmtest.Run(t, vmtest.Suite{
					Args: args, Package: "corsa.dev/corsa/runtime/engine/" + engine, EngineTest: true, NoSkips: true, Options: o,
				})
			})
		})
	}
}

// The Binder packages work with the driver of each kernel.
func TestBinderPackages(t *testing.T) {
	for _, name := range []string{".", "binder", "servicemanager"} {
		t.Run(path.Join("binderfs", name), func(t *testing.T) {
			each(t, func(t *testing.T, k vm.Kernel) {
				vmtest.Run(t, vmtest.Suite{
					Package: path.Join("corsa.dev/corsa/binderfs", name), NoSkips: true,
					Options: vm.Options{Kernel: k.Name, SMP: 2, Load: []string{"binder"}},
				})
			})
		})
	}
}

// The module passes its own tests in C, each of which is a subtest here, and can be unloaded after them.
func TestModule(t *testing.T) {
	each(t, func(t *testing.T, k vm.Kernel) { cTests(t, k, k.ModuleTest(), loadCorsa(t, k)) })
}

// So does its Binder gate, with the driver of each kernel: as it is, and with a place for the gate.
func TestBinderGate(t *testing.T) {
	for _, driver := range []string{"binder", "binder-hook"} {
		t.Run(driver, func(t *testing.T) {
			each(t, func(t *testing.T, k vm.Kernel) {
				cTests(t, k, k.GateTest(), append([]string{driver}, loadCorsa(t, k)...))
			})
		})
	}
}

// cTests runs a program of tests in C with the modules of load, and unloads corsa then.
func cTests(t *testing.T, k vm.Kernel, program string, load []string) {
	t.Helper()
	var out bytes.Buffer
	r, err := vm.Run(t.Context(), vm.Options{
		Kernel: k.Name, SMP: 2, Memory: 1024, Load: load, Files: []vm.File{{Host: program, Guest: "/usr/bin/c-tests"}},
		// What a process leaves behind when it is killed is given back a moment later.
		Command: []string{"sh", "-c", "c-tests && sleep 1 && rmmod corsa"}, Stdout: &out, Stderr: &out,
	})
	if err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	var said strings.Builder
	passed := 0
	for line := range strings.Lines(out.String()) {
		verdict, rest, _ := strings.Cut(line, " ")
		name, elapsed, ended := strings.Cut(strings.TrimSpace(rest), " ")
		if ended = ended && strings.HasPrefix(elapsed, "("); !ended || verdict != "ok" && verdict != "FAIL" {
			said.WriteString(line)
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Logf("%s%s", said.String(), elapsed)
			if verdict == "FAIL" {
				t.Fail()
			}
		})
		said.Reset()
		passed++
	}
	if passed == 0 || r != nil && r.Code != 0 && !t.Failed() {
		t.Errorf("%d tests have ended, and something is wrong\n%s", passed, out.String())
	}
}

// loadCorsa is the list of modules to load for tests of corsa.ko.
func loadCorsa(t *testing.T, k vm.Kernel) []string {
	t.Helper()
	if _, built := k.Module("corsa"); !built {
		t.Fatal("corsa.ko has not been built; run: make vm-deps")
	}
	return []string{"corsa"}
}
