package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keepsSocket is a service that, like many, does not remove its socket and does not start where one is.
const keepsSocket = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(8)
if len(sys.argv) > 2:
    log = open(sys.argv[2], "a")
while True:
    c, _ = s.accept()
    while c.recv(100):
        c.sendall(b"+PONG\r\n")
`

// A socket that the program made in a directory of the host goes with the service, however that ends.
func TestNoSocketIsLeft(t *testing.T) {
	needs(t, "python3")
	// Not below /tmp, which a sandbox has for itself: there the host never sees the program's own socket.
	dir, err := os.MkdirTemp("/var/lib", "corsa-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	socket, program := filepath.Join(dir, "s"), filepath.Join(dir, "service.py")
	if err := os.WriteFile(program, []byte(keepsSocket), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &served{corsa: newCorsa(t), id: "py", socket: socket}
	serve := []string{"serve", "--detach", "--id", s.id, "--socket", socket, "--", "python3", program, socket}
	for _, v := range []struct {
		name string
		end  func()
	}{
		{"deleted", func() {}},
		{"killed", func() { s.ok("kill", s.id) }},
		{"monitor dead", s.killBoth},
	} {
		s.ok(serve...)
		s.app(0).expect("+PONG", "ping")
		v.end()
		s.ok("delete", "--force", s.id)
		only(t, dir, "service.py", v.name)
	}
	s.fails(1, "log", append(serve, filepath.Join(dir, "log"))...)
	only(t, dir, "log service.py", "refused")
}

// only wants no other files in dir.
func only(t *testing.T, dir, want, when string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != want {
		t.Fatalf("%s: %s holds %q, want %q", when, dir, got, want)
	}
}
