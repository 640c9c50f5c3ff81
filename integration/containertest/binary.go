package containertest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// CRIU is what corsa says of the CRIU that it uses.
type CRIU struct {
	Dir string // where it is; "" if there is none. For those who take the first one in PATH
	TCP bool   // it can dump TCP sockets
}

// FindCRIU asks the binary.
func FindCRIU(binary string) CRIU {
	out, _ := exec.Command(binary, "check", "--json").Output() // it fails if anything is missing
	var report struct {
		Probes []struct{ Name, Result, Detail string }
	}
	var c CRIU
	if err := json.Unmarshal(out, &report); err != nil {
		return c
	}
	for _, p := range report.Probes {
		path, _, _ := strings.Cut(p.Detail, " (")
		switch {
		case p.Result != "yes":
		case p.Name == "criu":
			c.Dir = filepath.Dir(path)
		case p.Name == "criu-tcp":
			c.TCP = true
		}
	}
	return c
}
