package integration

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An unprivileged user runs containers in a state root of his own.
func TestRootless(t *testing.T) {
	needs(t, "setpriv")
	c := newCorsa(t)
	const nobody = 65534
	as := func(args ...string) (string, error) {
		full := append([]string{"--reuid", "65534", "--regid", "65534", "--clear-groups", corsaBin, "--root", c.root}, args...)
		out, err := exec.Command("setpriv", full...).CombinedOutput()
		return string(out), err
	}
	if out, err := exec.Command("setpriv", "--reuid", "65534", "--clear-groups", "unshare", "-U", "true").CombinedOutput(); err != nil {
		t.Skip("users may not make user namespaces here: ", string(out))
	}
	dir := busyboxBundle(t, c, nil, "sleep", "1000")
	for path := dir; path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path := filepath.Dir(c.root); path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(c.root, 0o700); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	if err == nil {
		err = os.Chown(c.root, nobody, nobody)
	}
	if err == nil {
		err = os.Remove(filepath.Join(dir, "config.json"))
	}
	if err != nil {
		t.Fatal(err)
	}
	must := func(want string, args ...string) {
		t.Helper()
		if out, err := as(args...); err != nil || !strings.Contains(out, want) {
			t.Fatalf("corsa %s: %v, %q should contain %q", strings.Join(args, " "), err, out, want)
		}
	}
	id := containerID(t)
	must("", "spec", "--rootless", "--bundle", dir)
	editSpec(t, dir, func(s *specs.Spec) {
		s.Process.Terminal, s.Process.Args = false, []string{"sleep", "1000"}
	})
	cmd := exec.Command("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", corsaBin, "--root", c.root, "run", "--detach", "-b", dir, id)
	if err := cmd.Run(); err != nil { // with /dev/null: the container keeps its streams
		t.Fatal(err)
	}
	must("running", "state", id)
	must("nobody", "list")
	must("0 65534", "exec", id, "sh", "-c", "echo $(id -u) $(awk '{print $2}' /proc/self/uid_map)")
	must("", "kill", id, "KILL")
	eventually(t, "it has stopped", func() bool { out, err := as("state", id); return err == nil && strings.Contains(out, "stopped") })
	must("", "delete", id)
	if out, err := as("--rootless", "false", "create", "-b", dir, id); err == nil {
		t.Errorf("with --rootless=false it does not matter that there is no cgroup: %s", out)
	}
	if err := os.Chown(filepath.Join(dir, "config.json"), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "config.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := as("create", "-b", dir, id); err == nil || !strings.Contains(out, "config.json: permission denied") {
		t.Errorf("a bundle that may not be read: %v, %q", err, out)
	}
	if left, err := os.ReadDir(c.root); err != nil || len(left) > 0 {
		t.Errorf("left in the state root: %v, %v", left, err)
	}
}

// cgroup2Script is run where /sys/fs/cgroup is cgroup2. The controllers may all be v1's: what is tested is the rest.
const cgroup2Script = `
set -e
mount --bind "$1" /sys/fs/cgroup
corsa="$2 --root $3"
$corsa create -b "$4" $5 </dev/null >/dev/null 2>&1
$corsa start $5
cat /sys/fs/cgroup/$5/cgroup.procs | grep -q .
$corsa exec $5 cat /proc/self/cgroup | grep 0::
$corsa exec $5 sh -c 'mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg 2>&1 >/dev/null; true'
mkdir /sys/fs/cgroup/$5/sub
$corsa exec --cgroup sub $5 cat /proc/self/cgroup | grep 0::
$corsa pause $5
$corsa state $5 | grep status
$corsa exec $5 true 2>&1 | grep -o 'it is paused'
$corsa delete --force $5
test ! -e /sys/fs/cgroup/$5
$corsa list -q
`

func TestCgroup2(t *testing.T) {
	needs(t, "unshare")
	c := newCorsa(t)
	unified := "/sys/fs/cgroup/unified"
	var st unix.Statfs_t
	if err := unix.Statfs(unified, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		if unified = "/sys/fs/cgroup"; unix.Statfs(unified, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			t.Skip("cgroup2 is not mounted here")
		}
	}
	id := containerID(t)
	dir := busyboxBundle(t, c, func(s *specs.Spec) {
		s.Linux.CgroupsPath = "/" + id
		for _, caps := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
			*caps = append(*caps, "CAP_MKNOD")
		}
	}, "sleep", "1000")
	out, err := exec.Command("unshare", "-m", "sh", "-c", cgroup2Script, "sh", unified, corsaBin, c.root, dir, id).CombinedOutput()
	want := "0::/" + id + "\nhead: /tmp/kmsg: Operation not permitted\n0::/" + id + "/sub\n  \"status\": \"paused\",\nit is paused\n"
	if err != nil || string(out) != want {
		t.Errorf("got %v, %q, want %q", err, out, want)
	}
	if left, err := filepath.Glob(filepath.Join(unified, id)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A system call of the container is decided by a program at linux.seccomp.listenerPath.
func TestSeccompNotify(t *testing.T) {
	c := newCorsa(t)
	path := filepath.Join(t.TempDir(), "listener")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	states := make(chan specs.ContainerProcessState, 1)
	go decideMkdir(t, l, states)
	id := containerID(t)
	dir := busyboxBundle(t, c, func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: "for the listener",
			Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}},
		}
	}, "sh", "-c", "mkdir /tmp/x 2>&1; true")
	if out := c.ok("run", "-b", dir, id); !strings.Contains(out, "No anode") {
		t.Errorf("the program printed %q", out)
	}
	if st := <-states; st.State.ID != id || st.Metadata != "for the listener" || st.Pid == 0 || st.State.Status != specs.StateCreating {
		t.Errorf("the listener was told %+v", st)
	}
}

// decideMkdir answers the first notification with ENOANO.
func decideMkdir(t *testing.T, l *net.UnixListener, states chan<- specs.ContainerProcessState) {
	defer close(states)
	conn, err := l.AcceptUnix()
	if err != nil {
		return // the test has ended
	}
	defer conn.Close()
	data, control := make([]byte, 64<<10), make([]byte, 256)
	n, nc, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		t.Error(err)
		return
	}
	var state specs.ContainerProcessState
	if err := json.Unmarshal(data[:n], &state); err != nil {
		t.Error(err)
		return
	}
	states <- state
	messages, err := unix.ParseSocketControlMessage(control[:nc])
	if err != nil || len(messages) != 1 {
		t.Errorf("%d messages, %v", len(messages), err)
		return
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Errorf("descriptors %v, %v", fds, err)
		return
	}
	defer unix.Close(fds[0])
	const receive, send = 0xc0502100, 0xc0182101 // SECCOMP_IOCTL_NOTIF_RECV and _SEND
	var notif struct {
		id         uint64
		pid, flags uint32
		data       [64]byte
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), receive, uintptr(unsafe.Pointer(&notif))); errno != 0 {
		t.Errorf("receive a notification: %v", errno)
		return
	}
	resp := struct {
		id    uint64
		val   int64
		err   int32
		flags uint32
	}{id: notif.id, err: -int32(unix.ENOANO)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), send, uintptr(unsafe.Pointer(&resp))); errno != 0 {
		t.Errorf("answer a notification: %v", errno)
	}
}
