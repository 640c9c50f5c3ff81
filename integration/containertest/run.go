package containertest

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Run runs cmd to its end and returns what it printed to both streams, and its exit code.
func Run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// Corsa runs a verb of the corsa at path that must succeed.
func Corsa(t *testing.T, path, root string, args ...string) string {
	t.Helper()
	out, err := exec.Command(path, append([]string{"--root", root}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("corsa %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// PublicDir makes a directory in parent for a service's socket. Every user may enter both. It has to be empty when the test
// ends, and is removed.
func PublicDir(t *testing.T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "public")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{parent, dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left beside the public socket: %v, %v", left, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
