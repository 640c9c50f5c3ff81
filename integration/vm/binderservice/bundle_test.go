package binderservice_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/transcript"
)

// A bundle is served as the flags are.
func TestGuestBundle(t *testing.T) {
	s := prepare(t)
	bundle := t.TempDir()
	s.must("spec", "--service", "--bundle", bundle, "--gate", "binder", "--binder-devices", "binder,hwbinder", "--binder-publish", s.publish,
		"--", store, "/dev/binder", "serve")
	run := exec.Command(corsa, "--root", s.root, "run", "--detach", "--bundle", bundle, s.id) // its program keeps the output
	if err := run.Run(); err != nil {
		t.Fatal(err)
	}
	s.says("1", first, "put", "one")
	s.says("1", second, "put", "two")
	s.says("one", first, "get")
	if _, err := os.Stat(filepath.Join(s.publish, "hwbinder")); err != nil {
		t.Error(err)
	}
}

// A container that is no service has its devices, too.
func TestGuestContainer(t *testing.T) {
	s := prepare(t)
	bundle := t.TempDir()
	s.must("spec", "--service", "--bundle", bundle, "--gate", "binder", "--binder-devices", "a,b", "--binder-publish", s.publish,
		"--", "/bin/sh", "-c", "test -c /dev/a && test -c /dev/b && echo /dev/binderfs/*")
	path := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	for key := range config["annotations"].(map[string]any) {
		if key != "dev.corsa.binder.devices" && key != "dev.corsa.binder.publish" {
			delete(config["annotations"].(map[string]any), key)
		}
	}
	if text, err = json.Marshal(config); err == nil {
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	const all = "/dev/binderfs/a /dev/binderfs/b /dev/binderfs/binder-control /dev/binderfs/features"
	if out := s.must("run", "--bundle", bundle, s.id); out != all {
		t.Errorf("the container has %q", out)
	}
}

// A trace tells what went on, call by call.
func TestGuestTrace(t *testing.T) {
	s := serve(t)
	s.says("1", first, "put", "one")
	trace := exec.Command(corsa, "--root", s.root, "binder", "trace", "--json", "--count", "4", s.id)
	trace.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	trace.Stderr = os.Stderr
	out, err := trace.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := trace.Start(); err != nil {
		t.Fatal(err)
	}
	buffers := func() []string {
		list, err := filepath.Glob("/sys/kernel/tracing/instances/corsa-*")
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	is := func(name, value string) bool {
		for _, dir := range buffers() {
			text, err := os.ReadFile(filepath.Join(dir, name))
			return err == nil && strings.TrimSpace(string(text)) == value
		}
		return false
	}
	s.eventually("the trace begins", func() bool {
		return is("events/binder/binder_transaction/enable", "1") && is("events/binder/binder_txn_latency_free/enable", "1") && is("tracing_on", "1")
	})
	s.says("1", second, "fill", "1")
	s.says("", first, "oneway", "1")
	s.fails("", second, "crash")
	s.says("one", first, "get")

	var got []transcript.Transaction
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var x transcript.Transaction
		if err := json.Unmarshal(lines.Bytes(), &x); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		got = append(got, x)
	}
	if err := trace.Wait(); err != nil {
		t.Error(err)
	}
	if len(buffers()) != 0 {
		t.Error("the trace leaves its buffer behind")
	}
	if len(got) != 4 {
		t.Fatalf("%d transactions: %+v", len(got), got)
	}
	for i, want := range []transcript.Transaction{
		{UID: second, Code: 4, Size: 4096, Reply: 4096, State: transcript.Answered},
		{UID: first, Code: 5, OneWay: true, State: transcript.Taken},
		{UID: second, Code: 9, State: transcript.Failed},
		{UID: first, Code: 2, State: transcript.Answered},
	} {
		x := got[i]
		// A client may have ended before anybody could ask who it is.
		if x.UID >= 0 && x.UID != want.UID || x.Code != want.Code || x.OneWay != want.OneWay || x.State != want.State || x.Outgoing ||
			want.Size != 0 && (x.Size != want.Size || x.Reply != want.Reply) || x.State == transcript.Answered && (x.Waited <= 0 || x.Took <= 0) {
			t.Errorf("transaction %d: %+v, want %+v", i, x, want)
		}
	}
	if text := s.must("binder", "stats", s.id); !strings.Contains(text, "aborted") {
		t.Errorf("stats: %s", text)
	}
}
