package vm_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"corsa.dev/corsa/integration/vm"
	"corsa.dev/corsa/integration/vm/vmtest"
)

// The hooks give containers of other runtimes their Binder, with the driver of each kernel.
func TestHooks(t *testing.T) {
	runtimes := []string{"runc", "crun", "podman", "conmon", "lxc-start", "umount"}
	for _, p := range runtimes {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s: not installed; run: make deps", p)
		}
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "../../hooks/corsa-binderfs-hook", "../../binderfs/servicemanager/corsa-servicemanager")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // they run in containers that hold nothing else
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	text, err := os.ReadFile("../../hooks/oci-hooks.d.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/oci-hooks.d.json", text, 0o644); err != nil {
		t.Fatal(err)
	}
	const guest = "/usr/local/lib/hooks"
	each(t, func(t *testing.T, k vm.Kernel) {
		vmtest.Run(t, vmtest.Suite{
			Package: "corsa.dev/corsa/hooks", Args: []string{"-test.run=Run|Crun|Podman|LXC|Publish|PermitByProgram|PermitNothing"}, NoSkips: true,
			Options: vm.Options{
				Kernel: k.Name, SMP: 2, Memory: 1024, Load: []string{"binder"}, Timeout: 15 * time.Minute, Programs: runtimes,
				Files: []vm.File{{Host: dir, Guest: guest}}, Env: []string{"CORSA_HOOK_PROGRAMS=" + guest},
			},
		})
	})
}
