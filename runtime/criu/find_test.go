package criu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake writes an executable script.
func fake(t *testing.T, path, body string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFindOrder(t *testing.T) {
	dir := t.TempDir()
	flag, env := fake(t, dir+"/flag/criu", "exit 0"), fake(t, dir+"/env/criu", "exit 0")
	inPath := fake(t, dir+"/path/criu", "exit 0")
	t.Setenv("PATH", dir+"/path")
	t.Setenv(Variable, env)
	for _, c := range []struct {
		flag string
		want Program
	}{
		{flag, Program{flag, FromFlag}},
		{"", Program{env, FromEnv}},
	} {
		if have, err := Find(c.flag); err != nil || have != c.want {
			t.Errorf("Find(%q) = %v, %v; want %v", c.flag, have, err, c.want)
		}
	}
	t.Setenv(Variable, "")
	// The test's executable has no prefix beside it.
	if have, err := Find(""); err != nil || have != (Program{inPath, FromPath}) {
		t.Errorf("Find = %v, %v; want the one in PATH", have, err)
	}
	t.Setenv("PATH", dir+"/empty")
	if have, err := Find(""); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "make deps") {
		t.Errorf("Find without any = %v, %v; want ErrNotFound with the way out", have, err)
	}
}

// One that was named and is not there must not be replaced by another in silence.
func TestFindTakesNothingElseThanWhatWasNamed(t *testing.T) {
	dir := t.TempDir()
	fake(t, dir+"/path/criu", "exit 0")
	t.Setenv("PATH", dir+"/path")
	t.Setenv(Variable, "")
	missing := dir + "/missing/criu"
	if have, err := Find(missing); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), missing) {
		t.Errorf("Find(%q) = %v, %v", missing, have, err)
	}
	t.Setenv(Variable, missing)
	if have, err := Find(""); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), missing) {
		t.Errorf("Find with %s=%q = %v, %v", Variable, missing, have, err)
	}
}
