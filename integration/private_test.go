package integration

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// words is an app of testdata/ledger.py.
type words struct {
	s   *served
	uid int
	c   io.ReadWriter
	r   *bufio.Reader
}

// words connects as user uid.
func (s *served) words(uid int) *words {
	s.t.Helper()
	w := &words{s: s, uid: uid}
	eventually(s.t, "the service accepts", func() bool {
		conn, err := dialAs(uid, s.socket)
		if err != nil {
			return false
		}
		s.t.Cleanup(func() { _ = conn.Close() }) // some tests end it
		if err := conn.SetDeadline(time.Now().Add(4 * deadline)); err != nil {
			s.t.Fatal(err)
		}
		w.c, w.r = conn, bufio.NewReader(conn)
		return true
	})
	return w
}

func (w *words) ask(request string) (string, error) {
	if _, err := io.WriteString(w.c, request+"\n"); err != nil {
		return "", err
	}
	reply, err := w.r.ReadString('\n')
	return strings.TrimSpace(reply), err
}

func (w *words) add(words ...string) {
	w.s.t.Helper()
	for _, word := range words {
		if got, err := w.ask("add " + word); got != "ok" {
			w.s.t.Fatalf("app %d: add %s: %q, %v", w.uid, word, got, err)
		}
	}
}

// has wants exactly these words in the service's memory, databases and log.
func (w *words) has(list ...string) {
	w.s.t.Helper()
	want := strings.Join(list, ",") + ";ok;ok"
	if got, err := w.ask("get"); got != want {
		w.s.t.Fatalf("app %d has %q, %v; want %q", w.uid, got, err, want)
	}
}

// contents are all files below dir.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestPrivateDatabase takes a service with two sqlite databases, one of which it makes for each app, and a log through
// everything that can happen to its instances. Whatever comes back, memory and files agree.
func TestPrivateDatabase(t *testing.T) {
	for _, mode := range []string{"delete", "persist", "wal"} {
		t.Run(mode, func(t *testing.T) { privateDatabase(t, mode) })
	}
}

func privateDatabase(t *testing.T, mode string) {
	needs(t, "python3")
	dir := publicDir(t)
	data, bin := filepath.Join(dir, "data"), t.TempDir()
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("testdata/ledger.py")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	script = filepath.Join(bin, "ledger.py")
	if err := os.WriteFile(script, text, 0o644); err != nil {
		t.Fatal(err)
	}
	s := &served{corsa: newCorsa(t), id: "ledger-" + mode, socket: filepath.Join(publicDir(t), "s")}
	s.ok("serve", "--detach", "--id", s.id, "--socket", s.socket, "--writable", bin, "--private", data, "--history", "4", "--",
		"python3", "-B", script, s.socket, data, mode)
	before := contents(t, data)

	a, b := s.words(2001), s.words(2002)
	a.add("a1")
	b.add("b1", "b2")
	a.has("a1")
	b.has("b1", "b2")
	s.checkpoint(2001, "--tag", "one")
	a.add("a2", "a3")
	second := s.checkpoint(2001)
	a.add("a4")
	a.has("a1", "a2", "a3", "a4")

	// In the middle of a transaction that has reached the file.
	for range 2 { // what comes back has to be as good as the first one
		if got, err := a.ask("half 200"); got != "begun" {
			t.Fatalf("half: %q, %v", got, err)
		}
		crash(t, s, "uid:2001")
		a = s.words(2001)
		a.has("a1", "a2", "a3")
		a.add("a5")
		a.has("a1", "a2", "a3", "a5")
	}
	s.ok("restore", "--app", "2001", "--to", "one", s.id)
	a = s.words(2001)
	a.has("a1")
	a.add("a6")
	b.has("b1", "b2")

	killMonitor(t, s)
	a, b = s.words(2001), s.words(2002)
	a.has("a1", "a6")
	b.has("b1", "b2")
	b.add("b3")
	s.checkpoint(2002)
	b.add("b4")
	s.ok("restore", "--app", "2002", s.id)
	b = s.words(2002)
	b.has("b1", "b2", "b3")
	s.ok("restore", "--app", "2001", "--to", second, s.id)
	a = s.words(2001)
	a.has("a1", "a2", "a3")
	a.add("a7")
	a.has("a1", "a2", "a3", "a7")
	for round := range 6 { // more than are kept
		a.add(fmt.Sprint("r", round))
		s.checkpoint(2001)
	}
	s.ok("restore", "--app", "2001", "--to", "base", s.id)
	s.words(2001).has()

	for path, now := range contents(t, data) {
		if now != before[path] {
			t.Errorf("%s of the host has changed", path)
		}
	}
	s.ok("delete", "--force", s.id)
}

// killMonitor kills the worker and waits until another has taken over.
func killMonitor(t *testing.T, s *served) {
	t.Helper()
	before := s.monitor()
	if err := unix.Kill(before, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another monitor", func() bool {
		_, _, code := s.run("", "apps", s.id)
		return code == 0 && s.monitor() != before
	})
}
