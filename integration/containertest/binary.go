package containertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Binary is $CORSA_BIN, or corsa built into dir.
func Binary(dir string) (string, error) {
	if path := os.Getenv("CORSA_BIN"); path != "" {
		return path, nil
	}
	path := filepath.Join(dir, "corsa")
	cmd := exec.Command("go", "build", "-tags", "seccomp", "-o", path, "corsa.dev/corsa")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build corsa: %w\n%s", err, out)
	}
	return path, nil
}

// Runtime writes a program to dir that is corsa with the state root root, for callers that give none, and returns its
// path. It is named corsa.
func Runtime(dir, binary, root string) (string, error) {
	path := filepath.Join(dir, "corsa")
	text := fmt.Sprintf("#!/bin/sh\nexec '%s' --root '%s' \"$@\"\n", binary, root)
	return path, os.WriteFile(path, []byte(text), 0o755)
}
