package route

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const clientEnv = "CORSA_ROUTE_CLIENT"

// client is what another process does: it connects to names, one after the other.
type client struct {
	UID, Real int // effective and real uid; Real 0: the same
	GID       int // 0: UID
	Dir, Root string
	Net       bool // in a network namespace of its own
	Padded    bool // the whole sun_path is given, with rubbish behind the final zero
	Type      int  // of the socket; 0: SOCK_STREAM
	Names     []string
	Times     int // that each is connected to; 0: once
	attr      syscall.SysProcAttr
}

// answer is what a connection ended with.
type answer struct {
	From, Err, Peer string
	UID             uint32 // as the listener saw it
	Nanos           int64  // of connect()
}

// The tests run in a cgroup of their own: nobody else's connect() passes through their programs.
func TestMain(m *testing.M) {
	if spec := os.Getenv(clientEnv); spec != "" {
		runClient(spec)
		return
	}
	os.Exit(inCgroup(m.Run))
}

var testCgroup string

func inCgroup(run func() int) int {
	root := cgroupRoot()
	if root == "" || os.Geteuid() != 0 {
		return run()
	}
	dir := filepath.Join(root, "corsa-route-test-"+strconv.Itoa(os.Getpid()))
	own, err := ownCgroup()
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if err == nil {
		err = join(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	testCgroup = dir
	code := run()
	err = join(filepath.Join(root, own))
	for range 100 { // killed children take a moment
		if err = errors.Join(err, os.Remove(dir)); err == nil || !errors.Is(err, unix.EBUSY) {
			break
		}
		err = nil
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func ownCgroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path, err
		}
	}
	return "/", err
}

func join(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// need skips the test where routing is not possible, and says why.
func need(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if detail, err := Probe(); errors.Is(err, ErrUnsupported) {
		t.Skip(detail, err)
	} else if err != nil {
		t.Fatal(err)
	}
}

// pins mounts a bpffs for the test.
func pins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("corsa-test", dir, "bpf", 0, "mode=0700"); err != nil {
		t.Skipf("mount bpffs: %v", err)
	}
	mount := dir
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Errorf("unmount %s: %v", mount, err)
		}
	})
	dir += "/corsa"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// workDir is a directory that everybody can enter.
func workDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "route")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, cfg Config) *Router {
	t.Helper()
	cfg.Cgroup = testCgroup
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), Remove(cfg.ID, cfg.Pins)); err != nil {
			t.Error(err)
		}
	})
	return r
}

// serve listens on name, "@" is abstract, and tells everybody who connects that it is from.
func serve(t *testing.T, network, name, from string) {
	t.Helper()
	l, err := net.ListenUnix(network, &net.UnixAddr{Net: network, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if name[0] != '@' {
		if err := os.Chmod(name, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go greet(c, from)
		}
	}()
}

func greet(c *net.UnixConn, from string) {
	defer c.Close()
	var a answer
	a.From = from
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				a.UID = cred.Uid
			}
		})
	}
	b, _ := json.Marshal(a)
	_, _ = c.Write(b)
}

// start starts a client and returns, once it is about to connect, a function that lets it and waits for its answers.
func (c client) start(t *testing.T) func() []answer {
	t.Helper()
	spec, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe") // its path may be closed to other users
	cmd.Env = append(os.Environ(), clientEnv+"="+string(spec))
	cmd.Stderr, cmd.SysProcAttr = os.Stderr, &c.attr
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("client %s: %v, %v", spec, err, cmd.Wait())
	}
	return func() []answer {
		t.Helper()
		var all []answer
		err := errors.Join(in.Close(), json.NewDecoder(out).Decode(&all), cmd.Wait())
		if err != nil {
			t.Fatalf("client %s: %v", spec, err)
		}
		return all
	}
}

// reaches checks that the client arrives at want, by each name and every time. "" means that it arrives nowhere.
func (c client) reaches(t *testing.T, want string) []answer {
	t.Helper()
	return c.arrived(t, c.start(t)(), want)
}

func (c client) arrived(t *testing.T, all []answer, want string) []answer {
	t.Helper()
	for _, a := range all {
		if a.From != want {
			t.Errorf("uid %d: arrived at %q (%s), want %q; client %+v", c.UID, a.From, a.Err, want, c)
		}
	}
	return all
}

func runClient(spec string) {
	runtime.LockOSThread()
	var c client
	err := json.Unmarshal([]byte(spec), &c)
	if err == nil {
		err = c.become()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = os.Stdout.WriteString("\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
	all := []answer{}
	for range max(1, c.Times) {
		for _, name := range c.Names {
			all = append(all, c.connect(name))
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(all)
}

func (c *client) become() error {
	var errs []error
	if c.Net { // whose thread is kept, and others never make a socket
		errs = append(errs, unix.Unshare(unix.CLONE_NEWNET))
	}
	if c.Root != "" {
		errs = append(errs, syscall.Chroot(c.Root), os.Chdir("/"))
	}
	if c.Dir != "" {
		errs = append(errs, os.Chdir(c.Dir))
	}
	if c.Real == 0 {
		c.Real = c.UID
	}
	if c.GID == 0 {
		c.GID = c.UID
	}
	if c.UID != 0 {
		errs = append(errs, syscall.Setgroups(nil), syscall.Setresgid(c.GID, c.GID, c.GID))
	}
	return errors.Join(append(errs, syscall.Setresuid(c.Real, c.UID, c.UID))...)
}

func (c *client) connect(name string) answer {
	typ := c.Type
	if typ == 0 {
		typ = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return answer{Err: err.Error()}
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	before := time.Now()
	if c.Padded {
		err = connectPadded(fd, name)
	} else {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: name})
	}
	took := time.Since(before)
	if err != nil {
		return answer{Err: err.Error()}
	}
	var a answer
	if typ == unix.SOCK_DGRAM {
		return a
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err != nil {
		a.Err = err.Error()
	}
	a.Nanos = took.Nanoseconds()
	return a
}

// connectPadded gives the kernel a whole sun_path, as many programs in C do.
func connectPadded(fd int, name string) error {
	var sa unix.RawSockaddrUnix
	sa.Family = unix.AF_UNIX
	for i := range sa.Path {
		sa.Path[i] = 'x'
	}
	for i := range name {
		sa.Path[i] = int8(name[i])
	}
	sa.Path[len(name)] = 0
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if errno != 0 {
		return errno
	}
	return nil
}
