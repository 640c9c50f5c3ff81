package binderservice_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/service"
)

// patience is for what takes moments on an idle machine; emulated and loaded ones are slower.
const patience = time.Minute

// served is a store behind corsa.
type served struct {
	t       *testing.T
	root    string
	id      string
	publish string
	address string // for clients
}

// serve starts a store with these flags and takes everything away again at the end.
func serve(t *testing.T, flags ...string) *served {
	t.Helper()
	return serveAs(t, "/dev/binder", flags...)
}

func serveAs(t *testing.T, address string, flags ...string) *served {
	t.Helper()
	s := prepare(t)
	_, name, named := strings.Cut(address, "#")
	if named {
		s.address += "#" + name
	}
	args := append([]string{"serve", "--detach", "--id", s.id, "--gate", "binder", "--binder-devices", "binder", "--binder-publish", s.publish}, flags...)
	s.must(append(args, "--", store, address, "serve")...)
	return s
}

func prepare(t *testing.T) *served {
	t.Helper()
	if !inVM() {
		t.Skip("corsa.ko and Binder: only in the VM")
	}
	public, err := os.MkdirTemp("", "binder-")
	if err == nil {
		t.Cleanup(func() {
			if err := os.Remove(public); err != nil { // what was in it has gone with the sandbox
				t.Error(err)
			}
		})
		err = os.Chmod(public, 0o755) // for apps, who are not root
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &served{t: t, root: filepath.Join(t.TempDir(), "root"), id: "store", publish: filepath.Join(public, "binderfs")}
	s.address = filepath.Join(s.publish, "binder")
	t.Cleanup(s.end)
	return s
}

// end deletes the service and sees that nothing is left of it.
func (s *served) end() {
	if s.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(s.root, s.id, "monitor.log")) // there may be none
		out, _ := os.ReadFile(filepath.Join(s.root, s.id, "service.log"))
		s.t.Logf("monitor.log:\n%s\nservice.log:\n%s", log, out)
	}
	if _, err := os.Stat(filepath.Join(s.root, s.id)); err == nil {
		s.must("delete", "--force", s.id)
	}
	if _, err := os.Lstat(s.publish); err == nil {
		s.t.Errorf("%s is left", s.publish)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		s.t.Fatal(err)
	}
	if strings.Contains(string(mounts), s.publish) {
		s.t.Errorf("mounts are left:\n%s", mounts)
	}
	s.eventually("no process is left", func() bool { return len(s.processes()) == 0 })
}

// processes are those whose command line names the state root: monitors and service managers.
func (s *served) processes() []string {
	var found []string
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range list {
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(s.root)) {
			found = append(found, string(text))
		}
	}
	return found
}

func (s *served) eventually(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// corsa runs a verb.
func (s *served) corsa(args ...string) (string, error) {
	s.t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(corsa, append([]string{"--root", s.root}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("corsa %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

func (s *served) must(args ...string) string {
	s.t.Helper()
	out, err := s.corsa(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// client makes a command of an app.
func (s *served) client(ctx context.Context, uid int, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, store, append([]string{s.address, strconv.Itoa(uid)}, args...)...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// call has an app call the store and returns what that prints.
func (s *served) call(uid int, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := s.client(ctx, uid, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		err = fmt.Errorf("uid %d: %s: %w: %s", uid, strings.Join(args, " "), err, text)
	}
	return text, err
}

// says has an app call the store, which has to answer so.
func (s *served) says(want string, uid int, args ...string) {
	s.t.Helper()
	if got, err := s.call(uid, args...); err != nil || got != want {
		s.t.Fatalf("uid %d: %s: %q (%v), want %q", uid, strings.Join(args, " "), got, err, want)
	}
}

// eventuallySays is says for a service that is just coming back.
func (s *served) eventuallySays(want string, uid int, args ...string) {
	s.t.Helper()
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		called := time.Now()
		got, err := s.call(uid, args...)
		if err == nil && got == want {
			return
		}
		if now := time.Now(); now.Sub(begun) > patience {
			s.t.Fatalf("uid %d: %s: not %q within %v; the last call took %v and gave %q (%v)", uid, strings.Join(args, " "), want, patience,
				now.Sub(called), got, err)
		}
	}
}

// fails has an app call the store, which has to fail with an error that says so.
func (s *served) fails(want string, uid int, args ...string) {
	s.t.Helper()
	if got, err := s.call(uid, args...); err == nil || !strings.Contains(err.Error(), want) {
		s.t.Fatalf("uid %d: %s: %q (%v), want a failure with %q", uid, strings.Join(args, " "), got, err, want)
	}
}

func (s *served) apps() map[string]service.AppView {
	s.t.Helper()
	var list []service.AppView
	if err := json.Unmarshal([]byte(s.must("apps", "--json", s.id)), &list); err != nil {
		s.t.Fatal(err)
	}
	apps := map[string]service.AppView{}
	for _, a := range list {
		apps[string(a.App)] = a
	}
	return apps
}

// monitor is the pid of the service's monitor.
func (s *served) monitor() int {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.root, s.id, "monitor.lock"))
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}
