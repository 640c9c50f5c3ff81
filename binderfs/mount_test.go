package binderfs_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/binderfs/binder"
)

func needBinder(t *testing.T) {
	t.Helper()
	if s := binderfs.Probe(); s.Offer != binderfs.OfferFilesystem {
		t.Skipf("binder: %s", s.Detail)
	}
	if os.Geteuid() != 0 {
		t.Skip("root: mounting needs it")
	}
}

func mount(t *testing.T, dir string, o binderfs.Options) *binderfs.FS {
	t.Helper()
	f, err := binderfs.Mount(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestDevices(t *testing.T) {
	needBinder(t)
	dir := t.TempDir()
	f := mount(t, dir, binderfs.Options{Max: 2})
	if list, err := f.Devices(); err != nil || len(list) != 0 {
		t.Fatalf("devices of a new mount: %v, %v", list, err)
	}
	d, err := f.AddDevice("binder")
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(d.Path, &st); err != nil || unix.Major(st.Rdev) != d.Major || unix.Minor(st.Rdev) != d.Minor {
		t.Errorf("%+v is %+v, %v", d, st, err)
	}
	if _, err := f.AddDevice("binder"); !errors.Is(err, binderfs.ErrExists) {
		t.Errorf("the same name again: %v", err)
	}
	if _, err := f.AddDevice("hwbinder"); err != nil {
		t.Error(err)
	}
	if _, err := f.AddDevice("third"); !errors.Is(err, binderfs.ErrFull) {
		t.Errorf("more than max=2: %v", err)
	}
	if list, err := f.Devices(); err != nil || len(list) != 2 || list[0] != d || list[1].Name != "hwbinder" {
		t.Errorf("devices %+v, %v", list, err)
	}
	if err := f.RemoveDevice("binder"); err != nil {
		t.Error(err)
	}
	if err := f.RemoveDevice("binder"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed again: %v", err)
	}
	if err := f.RemoveDevice("binder-control"); !errors.Is(err, binderfs.ErrName) {
		t.Errorf("remove binder-control: %v", err)
	}
	if _, err := f.AddDevice("again"); err != nil {
		t.Errorf("there is no room where a device was removed: %v", err)
	}
	if features, err := f.Features(); err != nil || !features["oneway_spam_detection"] || !features["extended_error"] {
		t.Errorf("features %v, %v", features, err)
	}

	other, err := binderfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if list, err := other.Devices(); err != nil || len(list) != 2 {
		t.Errorf("opened by its path, it has %v, %v", list, err)
	}
	if _, err := binderfs.Open(t.TempDir()); !errors.Is(err, binderfs.ErrNotBinderfs) {
		t.Errorf("an ordinary directory: %v", err)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "a\x00", "binder-control", "features", "binder_logs", strings.Repeat("x", 256)} {
		if err := binderfs.CheckName(name); !errors.Is(err, binderfs.ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := binderfs.CheckName(strings.Repeat("x", 255)); err != nil {
		t.Error(err)
	}
}

func TestBadMounts(t *testing.T) {
	if _, err := binderfs.Mount("relative", binderfs.Options{}); err == nil {
		t.Error("a relative path is accepted")
	}
	if _, err := binderfs.Mount("/", binderfs.Options{Max: -1}); err == nil {
		t.Error("max=-1 is accepted")
	}
	if s := binderfs.Probe(); s.Offer == binderfs.OfferNone && os.Geteuid() == 0 {
		if _, err := binderfs.Mount(t.TempDir(), binderfs.Options{}); !errors.Is(err, binderfs.ErrUnsupported) {
			t.Errorf("on a kernel without it: %v", err)
		}
	}
}

func TestMountPointIsMissing(t *testing.T) {
	needBinder(t)
	if _, err := binderfs.Mount(filepath.Join(t.TempDir(), "missing"), binderfs.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("on a directory that is not there: %v", err)
	}
}

// Two mounts are worlds of their own, whatever their devices are called.
func TestIsolation(t *testing.T) {
	needBinder(t)
	var devices [2]binderfs.Device
	for i := range devices {
		var err error
		if devices[i], err = mount(t, t.TempDir(), binderfs.Options{}).AddDevice("binder"); err != nil {
			t.Fatal(err)
		}
		conn, err := binder.Open(devices[i].Path, binder.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		nobody := binder.HandlerFunc(func(*binder.Transaction, *binder.Parcel) error { return binder.StatusUnknownTransaction })
		if _, err := conn.BecomeContextManager("test", nobody); err != nil {
			t.Errorf("mount %d: %v", i, err)
		}
	}
	if devices[0].Minor == devices[1].Minor {
		t.Errorf("one device in two mounts: %+v", devices)
	}
}

// sleeper is a process in new namespaces, with a tmpfs on /mnt that nobody else has.
func sleeper(t *testing.T, flags uintptr) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", "mount -t tmpfs none /mnt && echo ready && read x")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: flags, Pdeathsig: unix.SIGKILL}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 1000}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 1000}}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 0, Gid: 0}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = io.WriteString(stdin, "\n")
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the process in the namespaces said %q, %v", line, err)
	}
	return cmd
}

func namespace(t *testing.T, pid int, kind string) *os.File {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestNamespaces(t *testing.T) {
	needBinder(t)
	for name, flags := range map[string]uintptr{
		"mount":            unix.CLONE_NEWNS,
		"mount, ipc":       unix.CLONE_NEWNS | unix.CLONE_NEWIPC,
		"user, mount, ipc": unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER,
	} {
		t.Run(name, func(t *testing.T) {
			cmd := sleeper(t, flags)
			pid := cmd.Process.Pid
			n := binderfs.Namespaces{Mount: namespace(t, pid, "mnt")}
			if flags&unix.CLONE_NEWIPC != 0 {
				n.IPC = namespace(t, pid, "ipc")
			}
			if flags&unix.CLONE_NEWUSER != 0 {
				n.User = namespace(t, pid, "user")
			}
			f, err := binderfs.Mount("/mnt", binderfs.Options{Max: 3, Namespaces: n})
			if err != nil {
				t.Fatal(err)
			}
			d, err := f.AddDevice("binder")
			if err != nil {
				t.Fatal(err)
			}
			inside := fmt.Sprintf("/proc/%d/root%s", pid, d.Path)
			var st unix.Stat_t
			if err := unix.Stat(inside, &st); err != nil {
				t.Fatal(err)
			}
			if want := uint32(0); flags&unix.CLONE_NEWUSER != 0 {
				if want = 100000; st.Uid != want {
					t.Errorf("the device belongs to uid %d", st.Uid)
				}
			}
			conn, err := binder.Open(inside, binder.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.Ping(context.Background()); !errors.Is(err, binder.ErrDead) {
				t.Errorf("ping: %v", err)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(d.Path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it can be seen from outside: %v", err)
			}
			if err := f.Unmount(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(inside); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after Unmount: %v", err)
			}
			if _, err := binderfs.Mount("/mnt/missing", binderfs.Options{Namespaces: n}); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("on a directory that is not there: %v", err)
			}
		})
	}
}
