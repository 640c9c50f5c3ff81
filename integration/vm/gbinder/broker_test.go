package gbinder_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/binderfs/servicemanager"
	"corsa.dev/corsa/integration/vm"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fork"
	"corsa.dev/corsa/runtime/gate/binder/broker"
	"corsa.dev/corsa/runtime/gate/binder/broker/brokertest"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// Without the module, the broker gives each user a clipboard of Waydroid's unmodified service.
func TestBrokeredClipboardInVM(t *testing.T) {
	run(t, "^TestGuestBrokered", vm.Options{SMP: 2, Memory: 1024, Load: []string{"binder"}})
}

// startBrokered starts the service behind a broker and adopts it.
func startBrokered(t *testing.T) (*broker.Broker, *brokertest.Monitor) {
	t.Helper()
	fs, err := binderfs.Mount(enterRoot(t), binderfs.Options{Stats: true})
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
	if err := os.Chmod(d.Path, 0o666); err != nil {
		t.Fatal(err)
	}
	android11.configure(t)
	logger := logrus.New()
	logger.SetOutput(t.Output())
	log := logrus.NewEntry(logger)
	monitor := brokertest.NewMonitor()
	b, err := broker.New(broker.Config{
		Service: &spec.Service{
			AppKey: spec.AppKeyUID, Concurrency: spec.Strict, Checkpoint: spec.CheckpointPolicy{Mode: spec.CheckpointManual},
			OnCrash: spec.CrashPolicy{Mode: spec.CrashRestore},
		},
		Monitor: monitor, Device: d.Path, Variant: android11.variant, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	service := program(t, "python3", "/opt/clipboard_service.py", "/etc/waydroid.cfg")
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = service.Process.Kill() // destroyed already
		_ = service.Wait()
	})
	eventually(t, "the service registers", func() bool {
		return slices.ContainsFunc(b.Registered(), func(s servicemanager.Service) bool { return s.Name == clipboard })
	})
	target, err := b.Seal(service.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	adopted, err := fork.New().Adopt(t.Context(), engine.Target{PID: service.Process.Pid, Broker: target, Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := adopted.Destroy(); err != nil {
			t.Error(err)
		}
	})
	monitor.SetService(adopted)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, b.Close()); err != nil {
			t.Error(err)
		}
	})
	return b, monitor
}

// Three users each have a clipboard; a crash in one's call leaves the others' as they are; a restore brings back what was
// copied before.
func TestGuestBrokeredClipboard(t *testing.T) {
	b, monitor := startBrokered(t)
	find := func(when string, uid uint32, want string) {
		t.Helper()
		if got := pasteText(t, uid); got != want {
			t.Errorf("%s uid %d finds %q, want %q", when, uid, got, want)
		}
	}
	for _, uid := range users {
		if wrong := copyText(t, uid, fmt.Sprint("text of ", uid)); wrong != "" {
			t.Fatal(wrong)
		}
	}
	for _, uid := range users {
		find("at first", uid, fmt.Sprint("text of ", uid))
	}
	key := instance.App("uid:2001")
	if err := monitor.Capture(t.Context(), b, key); err != nil {
		t.Fatal(err)
	}
	if wrong := copyText(t, 2001, "later"); wrong != "" {
		t.Fatal(wrong)
	}
	find("later", 2001, "later")
	if err := monitor.Restore(t.Context(), b, key); err != nil {
		t.Fatal(err)
	}
	find("restored", 2001, "text of 2001")
	if copyText(t, 2002, "crash") == "" {
		t.Error("the text that crashes the service was copied")
	}
	if n := monitor.Counts().Crashes; n != 1 {
		t.Errorf("the monitor was told of %d crashes", n)
	}
	find("after another's crash", 2001, "text of 2001")
	find("after another's crash", 2003, "text of 2003")
	if wrong := copyText(t, 2002, "goes on"); wrong != "" {
		t.Error(wrong)
	}
	find("after the crash", 2002, "goes on")
}
