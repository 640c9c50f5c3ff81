package gbinder_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// corsaBin is where the guest has corsa.
const corsaBin = "/usr/local/bin/corsa"

// served is Waydroid's clipboard service in a container that corsa virtualises.
type served struct {
	state, id string
	published string // the directory of the host where its device is
}

// corsa runs a command of corsa on the state and returns what it prints.
func (s *served) corsa(t *testing.T, args ...string) []byte {
	t.Helper()
	var out, complaint bytes.Buffer
	cmd := exec.Command(corsaBin, append([]string{"--root", s.state}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("corsa %s: %v\n%s%s", strings.Join(args, " "), err, complaint.String(), s.log())
	}
	return out.Bytes()
}

// log is the monitor's.
func (s *served) log() string {
	text, err := os.ReadFile(filepath.Join(s.state, s.id, "monitor.log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error()
	}
	return string(text)
}

// serve runs the clipboard service by corsa, with these annotations besides those that it needs. It ends with the test, and
// nothing is left of it then.
func serve(t *testing.T, annotations map[string]string) *served {
	t.Helper()
	if _, err := os.Stat("/dev/corsa"); err != nil {
		t.Skip("corsa.ko: not loaded")
	}
	s := &served{state: filepath.Join(t.TempDir(), "state"), id: "clipboard", published: enterRoot(t)}
	android11.configure(t)
	bundle := t.TempDir()
	s.corsa(t, "spec", "--bundle", bundle)
	if err := s.configure(filepath.Join(bundle, "config.json"), annotations); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the monitor says\n%s", s.log())
		}
		if _, err := os.Stat(filepath.Join(s.state, s.id)); err == nil {
			s.corsa(t, "delete", "--force", s.id)
		}
		if left, err := os.ReadDir(s.state); err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
			t.Errorf("left in the state root: %v, %v", left, err)
		}
		if left, err := os.ReadDir(s.published); err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
			t.Errorf("left where the devices were published: %v, %v", left, err)
		}
	})
	// The service keeps what corsa run has as output, so that a pipe would not end.
	messages := filepath.Join(bundle, "messages")
	if err := exec.Command(corsaBin, "--root", s.state, "--log", messages, "run", "--detach", "--bundle", bundle, s.id).Run(); err != nil {
		text, _ := os.ReadFile(messages)
		t.Fatalf("corsa run: %v\n%s%s", err, text, s.log())
	}
	return s
}

// configure makes the default configuration that of the service.
func (s *served) configure(path string, annotations map[string]string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return err
	}
	process, ok := config["process"].(map[string]any)
	if !ok {
		return fmt.Errorf("%s has no process", path)
	}
	process["terminal"] = false
	process["args"] = []string{"/usr/bin/python3", "/opt/clipboard_service.py", "/etc/waydroid.cfg"}
	process["env"] = []string{"PATH=/usr/bin", "PYTHONDONTWRITEBYTECODE=1", "LC_ALL=C.UTF-8"}
	config["root"] = map[string]any{"path": root, "readonly": true}
	all := map[string]string{
		"dev.corsa.gate": "binder", "dev.corsa.engine": "kmod", "dev.corsa.binder.devices": "binder", "dev.corsa.binder.publish": s.published,
		"dev.corsa.binder.manager": android11.variant.String(), "dev.corsa.binder.names": clipboard,
	}
	for k, v := range annotations {
		all[k] = v
	}
	config["annotations"] = all
	if text, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// crashes returns how often the instance of each app has crashed, by the app's name.
func (s *served) crashes(t *testing.T) map[string]int {
	t.Helper()
	text := s.corsa(t, "apps", "--json", s.id)
	var apps []struct {
		App     string
		Crashes int
	}
	if err := json.Unmarshal(text, &apps); err != nil {
		t.Fatalf("corsa apps --json: %v\n%s", err, text)
	}
	found := make(map[string]int)
	for _, a := range apps {
		found[a.App] = a.Crashes
	}
	return found
}

// pid is the service's process.
func (s *served) pid(t *testing.T) int {
	t.Helper()
	var state struct{ Pid int }
	text := s.corsa(t, "state", s.id)
	if err := json.Unmarshal(text, &state); err != nil || state.Pid == 0 {
		t.Fatalf("corsa state: %v\n%s", err, text)
	}
	return state.Pid
}

// Under corsa each user has a clipboard of Waydroid's unmodified service; a crash in one's call leaves the others' as they
// are; and a restore brings back what the user had copied before.
func TestGuestServedClipboard(t *testing.T) {
	s := serve(t, nil)
	find := func(when string, uid uint32, want string) {
		t.Helper()
		if got := pasteText(t, uid); got != want {
			t.Errorf("%s uid %d finds %q, want %q", when, uid, got, want)
		}
	}
	put := func(uid uint32, text string) {
		t.Helper()
		if wrong := copyText(t, uid, text); wrong != "" {
			t.Fatalf("uid %d: %s", uid, wrong)
		}
	}
	pid := s.pid(t)
	for _, uid := range users {
		find("at first", uid, "(empty)")
		put(uid, fmt.Sprint("text of ", uid))
	}
	for _, uid := range users {
		find("then", uid, fmt.Sprint("text of ", uid))
		s.corsa(t, "checkpoint", "--app", fmt.Sprint(uid), "--tag", "first", s.id)
	}
	put(2001, "a later text")
	put(2003, "a later text of 2003")

	if copyText(t, 2002, "crash") == "" {
		t.Error("the text that crashes the service was copied")
	}
	find("after the crash", 2001, "a later text")
	find("after the crash", 2003, "a later text of 2003")
	find("after the crash", 2002, "text of 2002")

	s.corsa(t, "restore", "--app", "2001", "--to", "first", s.id)
	find("restored", 2001, "text of 2001")
	find("while another was restored", 2003, "a later text of 2003")
	if text := output(t, "python3", "/opt/clipboard_client.py", android11.variant.String(), android11.protocol); text != "(empty)" {
		t.Errorf("python3-gbinder, as root, finds %q", text)
	}
	if text := output(t, "binder-list", "-d", device); !strings.Contains(text, clipboard) {
		t.Errorf("binder-list: %q", text)
	}
	if text := output(t, "binder-ping", "-d", device, clipboard); !strings.HasSuffix(text, "OK") {
		t.Errorf("binder-ping: %q", text)
	}

	if now := s.pid(t); now != pid {
		t.Errorf("the service was process %d and is %d", pid, now)
	}
	crashes := s.crashes(t)
	for uid, want := range map[uint32]int{2001: 0, 2002: 1, 2003: 0} {
		if got, ok := crashes[fmt.Sprint("uid:", uid)]; !ok || got != want {
			t.Errorf("uid %d: %d crashes (%t), want %d", uid, got, ok, want)
		}
	}
}

// Sixteen users at once, each of whose instances is checkpointed now and then, while another user crashes the service.
func TestGuestServedCrowd(t *testing.T) {
	s := serve(t, map[string]string{"dev.corsa.checkpoint": "every=100", "dev.corsa.history": "2"})
	const crasher, times = "uid:2002", 3
	runCrowd(t, filepath.Join(s.published, "binder"), func() {
		for range times {
			if copyText(t, 2002, "crash") == "" {
				t.Error("the text that crashes the service was copied")
			}
			if got := pasteText(t, 2002); got != "(empty)" {
				t.Errorf("after the crash uid 2002 finds %q", got)
			}
		}
	})
	crashes := s.crashes(t)
	if len(crashes) != crowd+1 {
		t.Errorf("corsa knows %d apps, %d have called", len(crashes), crowd+1)
	}
	for app, n := range crashes {
		if app == crasher && n != times || app != crasher && n > 0 {
			t.Errorf("%s has crashed %d times", app, n)
		}
	}
}
