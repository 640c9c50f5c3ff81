package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/integration/services"
)

// TestWorkloads serves each real program unmodified and takes two apps through divergence, a checkpoint, a crash under
// an open connection and a rollback to the base.
func TestWorkloads(t *testing.T) {
	for _, service := range services.All() {
		t.Run(service.Name, func(t *testing.T) {
			if missing := service.Missing(); missing != "" {
				t.Fatal(missing)
			}
			workload(t, service)
		})
	}
}

func workload(t *testing.T, service services.Service) {
	dir := publicDir(t)
	scratch := filepath.Join(dir, "scratch")
	if err := os.Mkdir(scratch, 0o777); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s.sock")
	command, err := service.Command(dir, scratch, socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &served{corsa: newCorsa(t), id: service.Name + "-" + strconv.Itoa(os.Getpid()), socket: socket}
	flags := []string{
		"serve", "--detach", "--id", s.id, "--socket", socket, "--app-key", "connection", "--writable", dir, "--",
	}
	s.ok(append(flags, command...)...)

	a, b := dialService(t, service, socket), dialService(t, service, socket)
	base := count(t, a)
	if got := count(t, b); got != base {
		t.Fatalf("the second app counts from %d, the first from %d: they share an instance", got, base)
	}
	count(t, a)
	s.ok("checkpoint", "--app", "conn:1", "--tag", "two", s.id)
	for range 2 { // a restored instance has to be as good as the first one
		if got := count(t, a); got != base+2 {
			t.Fatalf("count %d after the checkpoint, want %d", got, base+2)
		}
		crash(t, s, "conn:1")
	}
	if got := count(t, a); got != base+2 {
		t.Fatalf("count %d after the crash, want that of the checkpoint and one more, %d", got, base+2)
	}
	if got := count(t, b); got != base+1 {
		t.Fatalf("the other app counts %d after the crash, want %d", got, base+1)
	}
	s.ok("restore", "--app", "conn:1", "--to", "two", s.id)
	if got := count(t, a); got != base+2 {
		t.Fatalf("count %d after the restore, want %d", got, base+2)
	}
	s.ok("delete", "--force", s.id)
}

func dialService(t *testing.T, service services.Service, socket string) services.Counter {
	t.Helper()
	c, err := service.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the service may have gone first
	return c
}

func count(t *testing.T, c services.Counter) uint64 {
	t.Helper()
	n, err := c.Add()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// crash kills the app's instance, between two requests, and waits until it has been replaced.
func crash(t *testing.T, s *served, app string) {
	t.Helper()
	before := s.apps()[app]
	if before.PID <= 0 {
		t.Fatalf("%s has no process: %s", app, strconv.Itoa(before.PID))
	}
	if err := unix.Kill(before.PID, unix.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	// A handler of the program's own may take the first one; a dormant instance takes it when it runs.
	eventually(t, "the crash", func() bool {
		now := s.apps()[app]
		if now.Crashes == before.Crashes {
			_ = unix.Kill(before.PID, unix.SIGKILL) // ESRCH: it is gone, and about to be counted
		}
		return now.Crashes > before.Crashes && now.PID != before.PID
	})
}
