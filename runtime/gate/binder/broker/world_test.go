package broker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fork"
	"corsa.dev/corsa/runtime/gate/binder/broker"
	"corsa.dev/corsa/runtime/gate/binder/broker/brokertest"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// The test binary is the broker, and starts itself again as the service and as apps: the driver lets nobody call a context
// manager of his own.
func TestMain(m *testing.M) {
	role, device, ok := strings.Cut(os.Getenv(roleVariable), " ")
	if !ok {
		os.Exit(m.Run())
	}
	run := map[string]func(string) error{"service": serveStore, "app": runApp, "manager": runManager, "relay": runRelay, "poller": servePoller}[role]
	if err := run(device); err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

// runManager is a service manager with nothing behind it, for what is not virtualised.
func runManager(device string) error {
	m, err := servicemanager.New(device, servicemanager.Options{Variant: servicemanager.AIDL3})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-m.Failed()
	return m.Err()
}

// relayName is that of an object which passes everything on to the service, and does nothing else that the broker does.
const relayName = "test.relay"

func runRelay(device string) error {
	conn, err := binder.Open(device, binder.Options{Threads: 4})
	if err != nil {
		return err
	}
	manager := servicemanager.NewClient(conn, servicemanager.AIDL3)
	ref, err := manager.Get(context.Background(), serviceName)
	if err != nil {
		return err
	}
	relays := sync.Pool{New: func() any { return new(binder.Relay) }}
	o, err := conn.NewRawObject(binder.HandlerFunc(func(tx *binder.Transaction, reply *binder.Parcel) error {
		x := relays.Get().(*binder.Relay)
		x.Request(tx)
		return x.Transact(tx, ref, reply, func() { relays.Put(x) })
	}))
	if err == nil {
		err = manager.Add(context.Background(), relayName, o)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-conn.Failed()
	return conn.Err()
}

// crash dies by a signal that Go does not turn into anything else.
func crash() {
	runtime.LockOSThread()
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// world is a service behind a broker, and its monitor.
type world struct {
	t       testing.TB
	device  string
	pid     int
	svc     engine.Service
	broker  *broker.Broker
	service spec.Service
	monitor *brokertest.Monitor
	stop    func() error
}

func newWorld(t testing.TB, change func(*spec.Service)) *world {
	t.Helper()
	w := prepareWorld(t, change)
	w.adopt()
	w.serve()
	return w
}

// prepareWorld starts a broker and the service.
func prepareWorld(t testing.TB, change func(*spec.Service), manner ...string) *world {
	t.Helper()
	return prepareWorldOf(t, "service", change, manner...)
}

// prepareWorldOf is prepareWorld with another service.
func prepareWorldOf(t testing.TB, role string, change func(*spec.Service), manner ...string) *world {
	t.Helper()
	w := &world{
		t: t, device: newDevice(t), monitor: brokertest.NewMonitor(),
		service: spec.Service{
			AppKey: spec.AppKeyUID, Concurrency: spec.Strict, Checkpoint: spec.CheckpointPolicy{Mode: spec.CheckpointManual},
			OnCrash: spec.CrashPolicy{Mode: spec.CrashRestore},
		},
	}
	if change != nil {
		change(&w.service)
	}
	w.newBroker()
	w.pid = startRole(t, role, append([]string{w.device}, manner...)...)
	w.await("the service has added its name", func() bool { return len(w.broker.Registered()) == 1 })
	return w
}

// newDevice makes a Binder device that every user may open.
func newDevice(t testing.TB) string {
	t.Helper()
	if s := binderfs.Probe(); s.Offer != binderfs.OfferFilesystem {
		t.Skipf("binder: %s", s.Detail)
	}
	dir, err := os.MkdirTemp("", "broker") // which other users can enter, unlike TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	fs, err := binderfs.Mount(dir, binderfs.Options{Stats: true})
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
	if err := errors.Join(os.Chmod(d.Path, 0o666), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return d.Path
}

func (w *world) newBroker() {
	w.t.Helper()
	log := logrus.New()
	log.SetOutput(w.t.Output())
	var err error
	w.broker, err = broker.New(broker.Config{
		Service: &w.service, Monitor: w.monitor, Device: w.device, Variant: servicemanager.AIDL3, Log: logrus.NewEntry(log),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	b := w.broker
	w.t.Cleanup(func() {
		if err := b.Close(); err != nil {
			w.t.Error(err)
		}
	})
}

// startRole starts this binary in a role, waits until it is ready and returns its pid.
func startRole(t testing.TB, role string, words ...string) int {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role+" "+strings.Join(words, " "))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // ended already
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the %s said %q, %v", role, line, err)
	}
	return cmd.Process.Pid
}

func (w *world) target(b *engine.Broker) engine.Target {
	log := logrus.New()
	log.SetOutput(w.t.Output())
	return engine.Target{PID: w.pid, Broker: b, Dir: w.t.TempDir(), Log: logrus.NewEntry(log)}
}

func (w *world) adopt() {
	w.t.Helper()
	b, err := w.broker.Seal(w.pid)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.svc, err = fork.New().Adopt(context.Background(), w.target(b)); err != nil {
		w.t.Fatal(err)
	}
	w.adopted()
}

// adopted has the service's end seen to.
func (w *world) adopted() {
	w.monitor.SetService(w.svc)
	w.t.Cleanup(func() {
		if err := w.svc.Destroy(); err != nil {
			w.t.Error(err)
		}
	})
}

func (w *world) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	b := w.broker
	go func() { done <- b.Serve(ctx) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	w.t.Cleanup(func() {
		if err := w.stop(); err != nil {
			w.t.Error(err)
		}
	})
}

func (w *world) app(uid uint32) *app {
	w.t.Helper()
	a := startApp(w.t, w.device, uid)
	a.want("ok", "find")
	return a
}

// checkpoint captures the app's instance, as corsa checkpoint does.
func (w *world) checkpoint(key instance.App) error {
	return w.monitor.Capture(context.Background(), w.broker, key)
}

// restore replaces the app's instance by its newest checkpoint, as corsa restore does.
func (w *world) restore(key instance.App) error {
	return w.monitor.Restore(context.Background(), w.broker, key)
}

// instance returns the app's instance, nil if it has none.
func (w *world) instance(key instance.App) engine.Instance {
	in, _ := w.monitor.Of(key)
	return in
}
