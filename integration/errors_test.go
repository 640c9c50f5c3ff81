package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestUsageErrorsExit1(t *testing.T) {
	c := newCorsa(t)
	for _, v := range []struct{ args, want string }{
		{"", "no verb"},
		{"bogus", `unknown verb "bogus"`},
		{"list --bogus", "--bogus"},
		{"list extra", "extra"},
		{"list --format yaml", "table or json"},
		{"start", "ID is missing"},
		{"state a b", `unexpected argument "b"`},
		{"log a", "APP is missing"},
		{"lst", "did you mean list"},
		{"help bogus", `unknown verb "bogus"`},
		{"check --pid x", `--pid "x": must be a number`},
		{"checkpoint --tag x a", "--app is missing"},
		{"checkpoint --app 1 --leave-running a", "give one of them"},
		{"restore --lsm-mount-context", "flag needs an argument"},
		{"checkpoint --empty-ns pid a", "must be network"},
		{"restore --app gid:1 a", "not an app"},
		{"serve --socket rel -- true", `--socket="rel"`},
		{"serve --socket /x --on-crash die -- true", "legal: restore, retry=N"},
		{"kill a NOSUCHSIGNAL", "NOSUCHSIGNAL"},
		{"kill a 65", "65"},
		{"create --bundle", "flag needs an argument"},
		{"--log-format xml list", "text or json"},
		{"--root / list", "--root"},
	} {
		t.Run(v.args, func(t *testing.T) {
			sub := &corsa{t: t, root: c.root}
			sub.fails(1, v.want, strings.Fields(v.args)...)
		})
	}
}

func TestUnknownContainerExits1(t *testing.T) {
	c := newCorsa(t)
	for _, verb := range []string{"start", "state", "kill", "delete", "pause", "resume", "ps"} {
		c.fails(1, `container "nope" under `+c.root+": container does not exist", verb, "nope")
	}
	c.fails(255, "does not exist", "exec", "nope", "true")
	c.fails(1, "invalid container id", "state", "../etc")
	c.fails(1, "invalid container id", "delete", "--force", "..")
}

func TestBadBundles(t *testing.T) {
	c := newCorsa(t)
	id := containerID(t)
	for _, v := range []struct {
		name, want string
		change     func(*specs.Spec)
	}{
		{"no process", "process must be set", func(s *specs.Spec) { s.Process = nil }},
		{"no args", "process.args", func(s *specs.Spec) { s.Process.Args = nil }},
		{"relative cwd", "process.cwd", func(s *specs.Spec) { s.Process.Cwd = "tmp" }},
		{"no root", "root.path", func(s *specs.Spec) { s.Root = nil }},
		{"lost root", "no such file", func(s *specs.Spec) { s.Root.Path = "lost" }},
		{"rlimit", "RLIMIT_BOGUS", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_BOGUS"}} }},
		{"program", `exec: "nope": executable file not found in $PATH`, func(s *specs.Spec) { s.Process.Args = []string{"nope"} }},
		{"mount", "lost-source", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: "/lost-source", Type: "bind", Options: []string{"bind"}})
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			sub := &corsa{t: t, root: c.root}
			dir := busyboxBundle(t, sub, v.change, "true")
			sub.fails(1, v.want, "create", "-b", dir, id)
			sub.fails(1, v.want, "run", "-b", dir, id)
			if out := sub.ok("list", "-q"); out != "" {
				t.Errorf("the failed create left %q", out)
			}
		})
	}
	dir := t.TempDir()
	c.fails(1, "config.json not found", "create", "-b", dir, id)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.fails(1, "config.json: line 1, column 1: the file ends", "create", "-b", dir, id)
	c.fails(1, "remove it first", "spec", "-b", dir)

	dir = busyboxBundle(t, c, func(s *specs.Spec) { s.Process.Terminal = true }, "true")
	c.fails(1, "--console-socket is needed", "create", "-b", dir, id)
	c.fails(1, "console socket", "create", "-b", dir, "--console-socket", filepath.Join(dir, "none"), id)
}

func TestPidFileThatCannotBeWrittenLeavesNothing(t *testing.T) {
	c := newCorsa(t)
	dir := busyboxBundle(t, c, nil, "sleep", "1000")
	c.fails(1, "pid file", "create", "-b", dir, "--pid-file", filepath.Join(dir, "no/dir/pid"), containerID(t))
	c.fails(1, "pid file", "run", "-d", "-b", dir, "--pid-file", filepath.Join(dir, "no/dir/pid"), containerID(t))
}

// Managers read errors from the log file as JSON, people from standard error.
func TestErrorsAreLogged(t *testing.T) {
	c := newCorsa(t)
	log := filepath.Join(t.TempDir(), "log")
	c.fails(1, "does not exist", "--log", log, "--log-format", "json", "state", "nope")
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var entry struct{ Level, Msg string }
	if err := json.Unmarshal(data, &entry); err != nil {
		t.Fatalf("%v: %q", err, data)
	}
	if entry.Level != "error" || !strings.Contains(entry.Msg, "does not exist") {
		t.Errorf("logged %+v", entry)
	}
	c.fails(1, "--log", "--log", filepath.Join(log, "below-a-file"), "list")
}

// Who is not root is told so where that is why.
func TestDeniedNamesThePrivilege(t *testing.T) {
	c := newCorsa(t)
	if err := os.MkdirAll(c.root, 0o700); err != nil {
		t.Fatal(err)
	}
	bin, err := os.Open(corsaBin)
	if err != nil {
		t.Fatal(err)
	}
	defer bin.Close()
	const nobody = 65534
	for _, args := range [][]string{
		{"apps", "x"},
		{"serve", "--socket", "/tmp/s", "--", "true"},
		{"serve", "--id", "x", "--socket", "/tmp/s", "--", "true"},
	} {
		cmd := c.command(args...)
		cmd.Path = "/proc/self/fd/3" // others may not look into the directory that holds it
		cmd.ExtraFiles = []*os.File{bin}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "need root, and this is uid 65534") {
			t.Errorf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
}
