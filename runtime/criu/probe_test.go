package criu

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]Version{"4.2": {4, 2, 0}, "4.2.1": {4, 2, 1}, "3.17.1-2": {3, 17, 1}, "5.0-rc1": {5, 0, 0}} {
		if have, err := parseVersion(text); err != nil || have != want {
			t.Errorf("parseVersion(%q) = %v, %v; want %v", text, have, err, want)
		}
	}
	for _, text := range []string{"", "4", "v4.2", "4.x"} {
		if have, err := parseVersion(text); err == nil {
			t.Errorf("parseVersion(%q) = %v", text, have)
		}
	}
	if v := (Version{4, 1, 9}); !v.Before(4, 2) || v.Before(4, 1) || v.Before(3, 99) || !v.Before(5, 0) {
		t.Errorf("%v is in the wrong order", v)
	}
}

// A proof that something is missing, a failure to tell and a yes must not be taken for one another.
func TestProbesHaveThreeAnswers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root is needed: to others no answer is a proof")
	}
	dir := t.TempDir()
	yes := Program{Path: fake(t, dir+"/yes", "echo Version: 4.1.1; exit 0")}
	no := Program{Path: fake(t, dir+"/no", `echo "Error (criu/a.c:1): no such feature" >&2; exit 1`)}
	broken := Program{Path: fake(t, dir+"/broken", "exit 127")}
	killed := Program{Path: fake(t, dir+"/killed", `echo "Error (criu/a.c:1): something" >&2; kill -9 $$`)}
	if err := yes.Feature(t.Context(), "x"); err != nil {
		t.Errorf("yes: %v", err)
	}
	if err := no.Check(t.Context()); !errors.Is(err, ErrLacks) || err.Error() != "no such feature" {
		t.Errorf("no: %v", err)
	}
	for _, p := range []Program{broken, killed, {Path: dir + "/missing"}} {
		if err := p.Check(t.Context()); err == nil || errors.Is(err, ErrLacks) || !strings.Contains(err.Error(), p.Path) {
			t.Errorf("%s: %v", p.Path, err)
		}
		if v, err := p.Version(t.Context()); err == nil {
			t.Errorf("%s: version %v", p.Path, v)
		}
	}
	if v, err := yes.Version(t.Context()); err != nil || v != (Version{4, 1, 1}) {
		t.Errorf("version %v, %v", v, err)
	}
}

// The host's configuration must not change what is asked.
func TestProbesReadNoConfiguration(t *testing.T) {
	seen := t.TempDir() + "/arguments"
	p := Program{Path: fake(t, t.TempDir()+"/criu", `echo "$@" >`+seen)}
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(seen); err != nil || string(have) != "--no-default-config check\n" {
		t.Errorf("arguments %q, %v", have, err)
	}
}
