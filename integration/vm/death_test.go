package vm_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/integration/vm"
	"corsa.dev/corsa/integration/vm/vmtest"
)

// ownerVariable makes the test binary the owner of a VM that is about to be killed.
const ownerVariable = "CORSA_VM_TEST_OWNER"

func TestMain(m *testing.M) {
	if kernel := os.Getenv(ownerVariable); kernel != "" {
		_, err := vm.Run(context.Background(), vm.Options{Kernel: kernel, Command: []string{"sleep", "1000"}})
		panic(err) // it is killed before
	}
	os.Exit(m.Run())
}

// QEMU does not outlive the process that has started it, however that ends, and no file of the run is left.
func TestOwnerKilled(t *testing.T) {
	k := vmtest.Kernels(t)[0]
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	owner := exec.Command(self)
	owner.Env = append(os.Environ(), ownerVariable+"="+k.Name, "TMPDIR="+tmp)
	var said bytes.Buffer
	owner.Stderr = &said
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var qemu int
	started := eventually(func() bool { qemu = childOf(t, owner.Process.Pid); return qemu != 0 })
	if err := owner.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = owner.Wait() // killed
	if !started {
		t.Fatalf("no VM was started\n%s", said.String())
	}
	if !eventually(func() bool { return command(qemu) == "" }) {
		t.Errorf("QEMU, process %d, is still there", qemu)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("it has left %v (%v)", left, err)
	}
}

// childOf returns the QEMU that a process has started, or 0.
func childOf(t *testing.T, parent int) int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(parent) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err == nil && strings.HasPrefix(command(pid), "qemu") {
				return pid
			}
		}
	}
	return 0
}

// command is the name of a process; "" if there is none or it is dead.
func command(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), "(")
	name, state, _ := strings.Cut(rest, ") ")
	if strings.HasPrefix(state, "Z") {
		return ""
	}
	return name
}

func eventually(what func() bool) bool {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if what() {
			return true
		}
	}
	return false
}
