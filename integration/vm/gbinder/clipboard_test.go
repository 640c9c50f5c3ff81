package gbinder_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"corsa.dev/corsa/binderfs/servicemanager"
)

// android11 is how the tests of the clipboard talk.
var android11 = api{30, servicemanager.AIDL3, "aidl3"}

// desktop is Waydroid's clipboard service on a device, with our service manager.
type desktop struct {
	path    string // of the device
	service *exec.Cmd
}

// startDesktop starts both. They end with the test.
func startDesktop(t *testing.T) *desktop {
	t.Helper()
	path := enter(t)
	android11.configure(t)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	manager, err := servicemanager.New(path, servicemanager.Options{Variant: android11.variant})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(manager.Err(), manager.Close()); err != nil {
			t.Error(err)
		}
	})
	service := program(t, "python3", "/opt/clipboard_service.py", "/etc/waydroid.cfg")
	service.Stdout, service.Stderr = os.Stderr, os.Stderr
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = service.Process.Kill()
		_ = service.Wait() // says that it was killed
	})
	eventually(t, "the service registers", func() bool {
		return slices.ContainsFunc(manager.Services(), func(s servicemanager.Service) bool { return s.Name == clipboard })
	})
	return &desktop{path, service}
}

// as runs binder-call as a user and returns what it prints.
func as(t *testing.T, uid uint32, args ...string) string {
	t.Helper()
	cmd := program(t, "binder-call", append([]string{"-d", device, clipboard}, args...)...)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("binder-call: %v", err)
	}
	return strings.TrimSpace(string(text))
}

// copyText returns what is wrong, "" if nothing is.
func copyText(t *testing.T, uid uint32, text string) string {
	t.Helper()
	if said := as(t, uid, "1", fmt.Sprintf("%q", text)+"u", "reply", "i32"); said != "0" {
		return "binder-call says " + said
	}
	return ""
}

var pasted = regexp.MustCompile(`^0 "(.*)"U$`)

// pasteText returns what a user finds in the clipboard.
func pasteText(t *testing.T, uid uint32) string {
	t.Helper()
	said := as(t, uid, "2", "reply", "i32", "s16")
	m := pasted.FindStringSubmatch(said)
	if m == nil {
		return "binder-call says " + said
	}
	return m[1]
}

var users = []uint32{2001, 2002, 2003}

// Without corsa all users have one clipboard, and a crash takes it from all of them.
func TestGuestClipboardIsShared(t *testing.T) {
	startDesktop(t)
	for _, uid := range users {
		if wrong := copyText(t, uid, fmt.Sprint("text of ", uid)); wrong != "" {
			t.Fatal(wrong)
		}
	}
	for _, uid := range users {
		if got := pasteText(t, uid); got != "text of 2003" {
			t.Errorf("uid %d finds %q", uid, got)
		}
	}
	if copyText(t, 2002, "crash") == "" {
		t.Error("the text that crashes the service was copied")
	}
	if got := pasteText(t, 2001); strings.HasPrefix(got, "text") {
		t.Errorf("after the crash uid 2001 finds %q", got)
	}
}
