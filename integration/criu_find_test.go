package integration

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// criuProbe is what `corsa check` says about one probe, with these arguments before the verb.
func criuProbe(t *testing.T, corsa, name string, args ...string) (result, detail string) {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.Command(corsa, append(args, "check", "--json")...)
	cmd.Stderr = &stderr
	// What else it says of this host, and its exit code, is not the matter here.
	stdout, _ := cmd.Output()
	var report struct {
		Probes []struct{ Name, Result, Detail string }
	}
	if err := json.Unmarshal(stdout, &report); err != nil {
		t.Fatalf("%v in %q; stderr %q", err, stdout, stderr.String())
	}
	for _, p := range report.Probes {
		if p.Name == name {
			return p.Result, p.Detail
		}
	}
	t.Fatalf("check has no probe %s", name)
	return "", ""
}

// What `make deps` has put into the tree, or `make install-criu` beside an installed corsa, is found without PATH and can be used.
func TestCorsaFindsItsOwnCRIU(t *testing.T) {
	built, err := filepath.Abs("../build/criu")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(built, "INSTALLED")); err != nil {
		t.Skipf("make deps has not provided CRIU: %v", err)
	}
	program, err := os.ReadFile(corsaBin)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("CORSA_CRIU", "")
	t.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
	for dir, prefix := range map[string]string{"sbin": "lib/corsa/criu", "bin": "build/criu"} {
		top := t.TempDir()
		own := filepath.Join(top, prefix)
		for _, d := range []string{filepath.Join(top, dir), filepath.Dir(own)} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.Symlink(built, own), os.WriteFile(filepath.Join(top, dir, "corsa"), program, 0o755)); err != nil {
			t.Fatal(err)
		}
		if result, detail := criuProbe(t, filepath.Join(top, dir, "corsa"), "criu"); result != "yes" || !strings.Contains(detail, own) || !strings.Contains(detail, "corsa's own") {
			t.Errorf("%s: criu: %s, %s", prefix, result, detail)
		}
		for _, name := range []string{"criu-check", "criu-tcp"} {
			if result, detail := criuProbe(t, filepath.Join(top, dir, "corsa"), name); result != "yes" {
				t.Errorf("%s: %s: %s, %s", prefix, name, result, detail)
			}
		}
	}
}

func TestCheckSaysWhichCRIUAndWhy(t *testing.T) {
	old := filepath.Join(t.TempDir(), "criu")
	script := "#!/bin/sh\ncase \"$*\" in *--version) echo Version: 3.17.1;; *) echo 'Error (criu/vdso.c:1): Unexpected rt vDSO area bounds' >&2; exit 1;; esac\n"
	if err := os.WriteFile(old, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if result, detail := criuProbe(t, corsaBin, "criu", "--criu", old); result != "no" || !strings.Contains(detail, old) || !strings.Contains(detail, "3.17.1") {
		t.Errorf("an old one: %s, %s", result, detail)
	}
	if result, detail := criuProbe(t, corsaBin, "criu-check", "--criu", old); result != "no" || !strings.Contains(detail, "vDSO") {
		t.Errorf("its check: %s, %s", result, detail)
	}
	t.Setenv("CORSA_CRIU", "/nonexistent/criu")
	if result, detail := criuProbe(t, corsaBin, "criu"); result != "no" || !strings.Contains(detail, "/nonexistent/criu") {
		t.Errorf("one that is not there: %s, %s", result, detail)
	}
	if result, _ := criuProbe(t, corsaBin, "criu-tcp"); result != "unknown" {
		t.Errorf("criu-tcp without CRIU: %s", result)
	}
}
