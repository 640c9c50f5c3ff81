package gbinder_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/binderfs/servicemanager"
)

// api is how libgbinder talks to a version of Android.
type api struct {
	level    int
	variant  servicemanager.Variant
	protocol string // of parcels
}

var apis = []api{
	{26, servicemanager.AIDL, "aidl"},
	{28, servicemanager.AIDL2, "aidl"},
	{29, servicemanager.AIDL2, "aidl2"},
	{30, servicemanager.AIDL3, "aidl3"},
	{31, servicemanager.AIDL4, "aidl4"},
	{33, servicemanager.AIDL3, "aidl3"},
	{35, servicemanager.AIDL5, "aidl3"},
	{36, servicemanager.AIDL6, "aidl3"},
}

const clipboard = "waydroidclipboard"

// device is where the packages' own programs find the Binder device.
const device = "/dev/binder"

// enter prepares the packages' /dev and /proc and returns the path of the Binder device there, seen from outside.
func enter(t *testing.T) string {
	t.Helper()
	dir := enterRoot(t)
	fs, err := binderfs.Mount(dir, binderfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Unmount(); err != nil {
			t.Error(err)
		}
	})
	d, err := fs.AddDevice("binder")
	if err != nil {
		t.Fatal(err)
	}
	return d.Path
}

// enterRoot prepares all but the device, for which there is a link. It returns the directory to mount a binderfs on.
func enterRoot(t *testing.T) string {
	t.Helper()
	if !inVM() {
		t.Skip("libgbinder: only in the VM")
	}
	if s := binderfs.Probe(); s.Offer != binderfs.OfferFilesystem {
		t.Skipf("binder: %s", s.Detail)
	}
	if err := unpack(); err != nil {
		t.Fatal(err)
	}
	dev := filepath.Join(root, "dev")
	mount(t, "tmpfs", dev, "tmpfs")
	mount(t, "proc", filepath.Join(root, "proc"), "proc")
	for name, minor := range map[string]uint32{"null": 3, "urandom": 9} {
		if err := unix.Mknod(filepath.Join(dev, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(dev, "binderfs")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Symlink("binderfs/binder", filepath.Join(dev, "binder"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// unpack makes root, once.
var unpack = sync.OnceValue(func() error {
	if text, err := exec.Command("tar", "-x", "-C", root, "-f", archive).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", archive, err, text)
	}
	return os.Remove(archive)
})

func mount(t *testing.T, source, dir, kind string) {
	t.Helper()
	if err := unix.Mount(source, dir, kind, 0, ""); err != nil {
		t.Fatalf("mount %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// program makes a command of the packages. It ends with the test at the latest.
func program(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "/usr/bin/"+name, args...)
	cmd.Path = "/usr/bin/" + name
	cmd.Err = nil
	cmd.Env = []string{"PATH=/usr/bin", "PYTHONDONTWRITEBYTECODE=1", "LC_ALL=C.UTF-8"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: root, Pdeathsig: unix.SIGKILL}
	return cmd
}

// output runs a command and returns what it says.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	text, err := program(t, name, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) { // the tools' exit codes say nothing: binder-call's is 2 when all went well
		t.Fatalf("%s: %v", name, err)
	}
	return strings.TrimSpace(string(text))
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// Our service manager serves the real programs in each protocol that they know.
func TestGuestProtocols(t *testing.T) {
	for _, a := range apis {
		t.Run(fmt.Sprintf("api%d_%v_%s", a.level, a.variant, a.protocol), func(t *testing.T) {
			path := enter(t)
			a.configure(t)
			manager, err := servicemanager.New(path, servicemanager.Options{Variant: a.variant})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := errors.Join(manager.Err(), manager.Close()); err != nil {
					t.Error(err)
				}
			})
			a.use(t, manager)
		})
	}
}

// configure writes the configuration files of libgbinder and of Waydroid.
func (a api) configure(t *testing.T) {
	t.Helper()
	for name, text := range map[string]string{
		"gbinder.conf": fmt.Sprintf("[General]\nApiLevel=%d\n", a.level),
		"waydroid.cfg": fmt.Sprintf("[waydroid]\nbinder = binder\nvndbinder = vndbinder\nhwbinder = hwbinder\n"+
			"binder_protocol = %s\nservice_manager_protocol = %v\n", a.protocol, a.variant),
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (a api) use(t *testing.T, manager *servicemanager.Manager) {
	t.Helper()
	if text := output(t, "binder-list", "-d", device); strings.Contains(text, clipboard) {
		t.Fatalf("binder-list knows the service before it is there: %q", text)
	}
	service := program(t, "python3", "/opt/clipboard_service.py", "/etc/waydroid.cfg")
	service.Stderr = os.Stderr
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	defer func() {
		if !ended {
			_ = service.Process.Kill()
			_ = service.Wait()
		}
	}()
	present := func() bool {
		return slices.ContainsFunc(manager.Services(), func(s servicemanager.Service) bool {
			return s.Name == clipboard && s.PID == service.Process.Pid
		})
	}
	eventually(t, "the service registers", present)

	if text := output(t, "binder-list", "-d", device); !strings.Contains(text, clipboard) {
		t.Errorf("binder-list: %q", text)
	}
	if text := output(t, "binder-ping", "-d", device, clipboard); !strings.HasSuffix(text, "OK") {
		t.Errorf("binder-ping: %q", text)
	}
	if text := output(t, "python3", "/opt/clipboard_client.py", a.variant.String(), a.protocol); text != "(empty)" {
		t.Errorf("python3-gbinder reads %q", text)
	}
	if text := output(t, "python3", "/opt/clipboard_client.py", a.variant.String(), a.protocol, "grüße 𝄞"); text != "grüße 𝄞" {
		t.Errorf("python3-gbinder reads %q after setting it", text)
	}
	if text := output(t, "binder-call", "-d", device, clipboard, "1", `"by binder-call"u`, "reply", "i32"); !strings.Contains(text, "0") {
		t.Errorf("binder-call sets: %q", text)
	}
	if text := output(t, "binder-call", "-d", device, clipboard, "2", "reply", "i32", "s16"); !strings.Contains(text, "by binder-call") {
		t.Errorf("binder-call gets: %q", text)
	}

	ended = true
	if err := service.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = service.Wait() // says that it was killed
	eventually(t, "the name of the dead service is removed", func() bool { return len(manager.Services()) == 0 })
	if text := output(t, "binder-list", "-d", device); strings.Contains(text, clipboard) {
		t.Errorf("binder-list after the death: %q", text)
	}
}
