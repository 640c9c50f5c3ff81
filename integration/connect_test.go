package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/gate/route"
)

// needsRouting skips the test where the kernel cannot lead connect(), and says why.
func needsRouting(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if detail, err := route.Probe(); errors.Is(err, route.ErrUnsupported) {
		t.Skip(detail, err)
	} else if err != nil {
		t.Fatal(err)
	}
}

// led waits until the app's connect() leads to its instance.
func (s *served) led(uid int) {
	s.t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
		a := s.apps()[fmt.Sprint("uid:", uid)]
		if a.Led {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("the app is not led: %+v\n%s", a, s.log())
		}
	}
}

// log is the end of the monitor's log.
func (s *served) log() string {
	data, _ := os.ReadFile(filepath.Join(s.root, s.id, "monitor.log"))
	return string(data)
}

// site is the directory of the listeners.
func (s *served) site() string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(s.socket), ".corsa-*"))
	if err != nil || len(found) != 1 {
		s.t.Fatalf("directories for listeners: %v, %v", found, err)
	}
	return found[0]
}

// peer is the name of the socket that the client is connected to.
func (c *client) peer() string { return c.conn.RemoteAddr().String() }

// straight checks that the client went straight to its instance.
func (s *served) straight(c *client, want bool) {
	s.t.Helper()
	if led := filepath.Dir(c.peer()) == s.site(); led != want {
		s.t.Errorf("led to the instance: %v, want %v; connected to %s\n%s", led, want, c.peer(), s.log())
	}
}

// TestConnect: the first connection of an app is handed over, later ones come to its instance by themselves. They last through
// turns, checkpoints and the death of the monitor; crash, restore and delete leave nobody behind.
func TestConnect(t *testing.T) {
	needsRouting(t)
	for _, concurrency := range []string{"strict", "parallel"} {
		t.Run(concurrency, func(t *testing.T) {
			s := serveRedis(t, "--path", "connect", "--concurrency", concurrency, "--spares", "0")
			apps := map[int][]*client{}
			for _, uid := range []int{0, 2001, 2002} {
				first := s.app(uid)
				first.expect("+OK", "set", "uid", fmt.Sprint(uid))
				s.straight(first, false)
				s.led(uid)
				second := s.app(uid)
				second.expect(fmt.Sprint(uid), "get", "uid")
				s.straight(second, true)
				apps[uid] = append(apps[uid], first, second)
			}
			count := 0
			turns := func() {
				t.Helper()
				for range 50 {
					count++
					for _, list := range apps {
						for i, c := range list {
							c.expect(fmt.Sprintf(":%d", (count-1)*len(list)+i+1), "incr", "n")
						}
					}
				}
			}
			turns()
			for uid := range apps {
				for end := time.Now().Add(deadline); ; time.Sleep(50 * time.Millisecond) {
					a := s.apps()[fmt.Sprint("uid:", uid)]
					if a.Path == "direct" && a.Direct == 2 && a.Connections == 2 {
						break
					}
					if time.Now().After(end) {
						t.Fatalf("app %d: %+v", uid, a)
					}
				}
			}

			id := s.checkpoint(2001)
			turns()
			if err := unix.Kill(s.monitor(), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			s.ok("apps", s.id) // another one takes over
			turns()
			s.led(2002)
			third := s.app(2002)
			s.straight(third, true)
			third.expect("2002", "get", "uid")

			s.ok("restore", "--app", "2001", "--to", id, s.id)
			s.led(2001)
			again := s.app(2001)
			s.straight(again, true)
			again.expect(fmt.Sprint(2*50), "get", "n")

			third.dies("debug", "segfault")
			for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
				c := s.app(2002)
				got, err := c.ask("get", "uid")
				if err == nil && got == "" { // the base knows nothing
					break
				}
				if time.Now().After(end) {
					t.Fatalf("after a crash: %q, %v", got, err)
				}
			}
			s.led(2002)
			fresh := s.app(2002)
			fresh.expect("", "get", "uid")
			s.straight(fresh, true)
			apps[0][1].expect("0", "get", "uid")

			s.ok("delete", "--force", s.id)
			if left := s.traces(); len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
			if pins := s.pins(); pins != "" {
				t.Errorf("left behind: %s", pins)
			}
		})
	}
}

// pins is the directory of the service's BPF objects, "" if there is none.
func (s *served) pins() string {
	s.t.Helper()
	dir := route.Pins(s.cgroup())
	if _, err := os.Stat(dir); dir == "" || errors.Is(err, fs.ErrNotExist) {
		return ""
	} else if err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// TestConnectWithoutMonitor: an app is led to its instance while there is no monitor, and what it sends is not lost; and the
// service can be deleted then.
func TestConnectWithoutMonitor(t *testing.T) {
	needsRouting(t)
	s := serveRedis(t, "--path", "connect")
	s.app(2001).expect("+OK", "set", "k", "v")
	s.led(2001)
	monitor := s.monitor()
	supervisor := parentOf(t, monitor)
	for _, pid := range []int{supervisor, monitor} { // so that nobody takes over
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	c := s.app(2001)
	s.straight(c, true)
	s.ok("apps", s.id)
	c.expect("v", "get", "k")

	for _, pid := range []int{parentOf(t, s.monitor()), s.monitor()} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(route.Validity + 100*time.Millisecond)
	if _, err := dialAs(2001, s.socket); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("without a heartbeat: %v, want a refusal by the public socket", err)
	}
	if s.pins() == "" {
		t.Error("nothing is pinned")
	}
	s.ok("delete", "--force", s.id)
	if left := s.traces(); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if pins := s.pins(); pins != "" {
		t.Errorf("left behind: %s", pins)
	}
}

// TestConnectPermissions: an app that may not connect to the public socket any more does not get to its instance either.
func TestConnectPermissions(t *testing.T) {
	needsRouting(t)
	s := serveRedis(t, "--path", "connect")
	s.app(2001).expect("+OK", "set", "k", "v")
	s.led(2001)
	if err := os.Chmod(s.socket, 0o700); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(deadline); s.apps()["uid:2001"].Led; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the app is still led")
		}
	}
	if _, err := dialAs(2001, s.socket); !errors.Is(err, unix.EACCES) {
		t.Errorf("error %v", err)
	}
	if err := os.Chmod(s.socket, 0o777); err != nil {
		t.Fatal(err)
	}
	s.led(2001)
	c := s.app(2001)
	c.expect("v", "get", "k")
	s.straight(c, true)
}

// TestConnectSpares: apps that nobody has seen connect straight to spare instances as long as there are any; each gets one of
// its own, whichever way its connections come.
func TestConnectSpares(t *testing.T) {
	needsRouting(t)
	for _, concurrency := range []string{"strict", "parallel"} {
		t.Run(concurrency, func(t *testing.T) {
			s := serveRedis(t, "--path", "connect", "--concurrency", concurrency, "--spares", "2")
			other := filepath.Join(filepath.Dir(s.socket), "link")
			if err := os.Symlink(s.socket, other); err != nil {
				t.Fatal(err)
			}
			straight, apps := 0, map[int][]*client{}
			for end := time.Now().Add(deadline); straight < 5; time.Sleep(20 * time.Millisecond) {
				uid := 3000 + len(apps)
				if time.Now().After(end) {
					t.Fatalf("%d of %d new apps came straight to their instances\n%s", straight, len(apps), s.log())
				}
				done := make(chan *client, 4)
				for i := range 4 { // all at once, and not all of them by the name that is led
					go func() {
						conn, err := dialAs(uid, []string{s.socket, other}[i%2])
						if err != nil {
							t.Error(err)
							done <- nil
							return
						}
						c := newClient(t, conn)
						if _, err := c.ask("incr", "n"); err != nil {
							t.Error(err)
						}
						done <- c
					}()
				}
				for range 4 {
					c := <-done
					if c == nil {
						t.FailNow()
					}
					t.Cleanup(func() { _ = c.conn.Close() })
					if filepath.Dir(c.peer()) == s.site() {
						straight++
					}
					apps[uid] = append(apps[uid], c)
				}
				for _, c := range apps[uid] {
					c.expect("4", "get", "n")
				}
			}
			for uid := 4000; ; uid++ { // the very first connection of an app
				c := s.app(uid)
				c.expect(":1", "incr", "n")
				for range 3 {
					c.expect(fmt.Sprintf(":%d", len(apps[uid])+2), "incr", "n")
					apps[uid] = append(apps[uid], c)
				}
				if filepath.Dir(c.peer()) == s.site() {
					break
				}
				if uid == 4500 {
					t.Fatalf("no app claims a spare\n%s", s.log())
				}
				time.Sleep(50 * time.Millisecond)
			}
			for _, list := range apps {
				for _, c := range list {
					c.expect("4", "get", "n")
				}
			}
			if got := len(s.apps()); got != len(apps) {
				t.Errorf("%d apps on record, want %d", got, len(apps))
			}
			if err := unix.Kill(s.monitor(), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			s.ok("apps", s.id)
			for uid, list := range apps {
				for _, c := range list {
					c.expect("4", "get", "n")
				}
				again := s.app(uid)
				again.expect("4", "get", "n")
			}
			s.ok("delete", "--force", s.id)
			if err := os.Remove(other); err != nil {
				t.Fatal(err)
			}
			if left := s.traces(); len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
		})
	}
}

// TestConnectContainers: an app in namespaces of its own gets to its instance, by whichever way is open to it.
func TestConnectContainers(t *testing.T) {
	needsRouting(t)
	needs(t, "redis-cli")
	s := serveRedis(t, "--path", "connect", "--spares", "0")
	s.app(2001).expect("+OK", "set", "k", "v")
	s.app(0).expect("+OK", "set", "k", "root's")
	s.led(2001)
	for _, flags := range [][]string{{}, {"--mount"}, {"--net"}, {"--ipc", "--uts"}, {"--mount", "--net", "--pid", "--fork"}} {
		args := append(append([]string{}, flags...), "setpriv", "--reuid=2001", "--regid=2001", "--clear-groups", "redis-cli", "-s", s.socket, "get", "k")
		out, err := exec.Command("unshare", args...).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "v" {
			t.Errorf("unshare %v: %v: %s", flags, err, out)
		}
	}
	// A user namespace, in which it calls itself root: made by the app, who else may not map another user.
	args := []string{"--reuid=2001", "--regid=2001", "--clear-groups", "unshare", "--user", "--map-root-user", "redis-cli", "-s", s.socket, "get", "k"}
	if out, err := exec.Command("setpriv", args...).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "v" {
		t.Errorf("%v: %v: %s", args, err, out)
	}
}
