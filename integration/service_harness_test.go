package integration

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/service"
)

// served is a redis-server that corsa serves.
type served struct {
	*corsa
	id     string
	socket string
}

// redisFlags make a redis-server that keeps everything in memory.
func redisFlags(socket string) []string {
	return []string{
		"redis-server", "--port", "0", "--unixsocket", socket, "--unixsocketperm", "777", "--save", "", "--appendonly", "no",
		"--enable-debug-command", "yes", "--crash-memcheck-enabled", "no", "--crash-log-enabled", "no",
	}
}

// serveRedis serves one under the id "redis", with flags of serve.
func serveRedis(t *testing.T, flags ...string) *served {
	t.Helper()
	s := &served{corsa: newCorsa(t), id: "redis", socket: filepath.Join(publicDir(t), "redis.sock")}
	args := append([]string{"serve", "--detach", "--id", s.id, "--socket", s.socket}, flags...)
	args = append(append(args, "--"), redisFlags(s.socket)...)
	if got := s.ok(args...); got != s.id+"\n" {
		t.Fatalf("serve printed %q", got)
	}
	return s
}

// publicDir is a directory that every user can reach, unlike those of t.TempDir.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// client is a connection of one app.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// dialAs connects as user uid. The kernel notes a client's identity when it connects.
func dialAs(uid int, path string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its changed identity
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			done <- result{nil, e}
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			done <- result{nil, err}
			return
		}
		f := os.NewFile(uintptr(fd), path)
		defer f.Close()
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			done <- result{nil, fmt.Errorf("connect to %s: %w", path, err)}
			return
		}
		conn, err := net.FileConn(f)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// app connects to the service as user uid.
func (s *served) app(uid int) *client {
	s.t.Helper()
	conn, err := dialAs(uid, s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() }) // some tests close it
	return newClient(s.t, conn)
}

func newClient(t *testing.T, conn net.Conn) *client {
	return &client{t: t, conn: conn, r: bufio.NewReader(conn)}
}

// ask sends one redis command and returns its reply; an array comes back as its elements, joined by blanks.
func (c *client) ask(words ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	if err := c.conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c.conn, b.String()); err != nil {
		return "", err
	}
	return c.reply()
}

func (c *client) reply() (string, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, rest := line[0], strings.TrimRight(line[1:], "\r\n")
	switch kind {
	case '$', '*':
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 {
			return "", err
		}
		if kind == '$' {
			buf := make([]byte, n+2)
			_, err = io.ReadFull(c.r, buf)
			return strings.TrimSuffix(string(buf), "\r\n"), err
		}
		var parts []string
		for range n {
			part, err := c.reply()
			if err != nil {
				return "", err
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, " "), nil
	}
	return string(kind) + rest, nil
}

// expect asks and wants exactly that reply.
func (c *client) expect(want string, words ...string) {
	c.t.Helper()
	got, err := c.ask(words...)
	if err != nil || got != want {
		c.t.Fatalf("%s: got %q, %v, want %q", strings.Join(words, " "), got, err, want)
	}
}

// dies asks something that ends the instance and wants the connection to end.
func (c *client) dies(words ...string) {
	c.t.Helper()
	if got, err := c.ask(words...); err == nil {
		c.t.Fatalf("%s: got %q, want the end of the connection", strings.Join(words, " "), got)
	}
}

// apps is what `corsa apps --json` shows, by app.
func (s *served) apps() map[string]service.AppView {
	s.t.Helper()
	var list []service.AppView
	if err := json.Unmarshal([]byte(s.ok("apps", "--json", s.id)), &list); err != nil {
		s.t.Fatal(err)
	}
	apps := map[string]service.AppView{}
	for _, a := range list {
		apps[string(a.App)] = a
	}
	return apps
}

// checkpoint takes one and returns its id.
func (s *served) checkpoint(uid int, flags ...string) string {
	s.t.Helper()
	args := append([]string{"checkpoint", "--app", strconv.Itoa(uid)}, flags...)
	return strings.TrimSpace(s.ok(append(args, s.id)...))
}

// monitor is the pid of the process that serves.
func (s *served) monitor() int {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.root, s.id, "monitor.lock"))
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	ppid, err := parent(pid)
	if err != nil {
		t.Fatal(err)
	}
	return ppid
}

func parent(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	return strconv.Atoi(fields[1])
}

// cgroup is the name of the service's cgroup: no other root has one like it.
func (s *served) cgroup() string {
	sum := sha256.Sum256([]byte(s.root))
	return fmt.Sprintf("%s-%x", s.id, sum[:4])
}

// traces are all signs of the service that the host shows: processes, cgroups, mounts, files.
func (s *served) traces() []string {
	s.t.Helper()
	var found []string
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range procs {
		cmdline, err := os.ReadFile(p + "/cmdline")
		if err != nil || filepath.Base(p) == strconv.Itoa(os.Getpid()) {
			continue
		}
		text := strings.ReplaceAll(string(cmdline), "\x00", " ")
		cgroup, _ := os.ReadFile(p + "/cgroup") // it has ended
		if strings.Contains(text, s.root) || strings.Contains(text, s.socket) || strings.Contains(string(cgroup), "/"+s.cgroup()+"\n") {
			found = append(found, p+": "+text)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, s.root) || strings.Contains(line, filepath.Dir(s.socket)) {
			found = append(found, line)
		}
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == s.cgroup() {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, dir := range []string{s.root, filepath.Dir(s.socket)} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.t.Fatal(err)
		}
		for _, e := range entries {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	return found
}

func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is needed (make deps installs it): %v", program, err)
	}
}
