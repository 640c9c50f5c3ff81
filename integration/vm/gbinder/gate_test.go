package gbinder_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
)

// gated is a process behind the module's Binder gate, with an instance for each uid.
type gated struct {
	session *client.Session
	base    uint32

	mu        sync.Mutex
	instances map[uint64]uint32
	saved     map[uint64]uint32 // what an instance begins again with after a crash
	crashes   int
	err       error
}

// gate puts a process behind the gate, until the test ends.
func gate(t *testing.T, pid int) *gated {
	t.Helper()
	device, err := client.Open()
	if errors.Is(err, client.ErrNoModule) {
		t.Skipf("corsa.ko: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = device.Close() })
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	session, attached, err := device.Attach(pidfd, false)
	if err != nil {
		t.Fatal(err)
	}
	g := &gated{session: session, instances: map[uint64]uint32{}, saved: map[uint64]uint32{}}
	_, _, err = session.EnableBinder(client.BinderGate{Key: client.KeyEUID})
	if err != nil {
		t.Fatal(err)
	}
	base, err := session.Checkpoint(0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	g.base = base.ID
	t.Logf("%d threads, base %d", attached.Threads, g.base)
	done := make(chan struct{})
	go g.serve(done)
	t.Cleanup(func() {
		_ = session.Close()
		<-done
		if g.err != nil {
			t.Error(g.err)
		}
	})
	return g
}

func (g *gated) serve(done chan struct{}) {
	defer close(done)
	for {
		events, err := g.session.Events()
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			return
		}
		g.mu.Lock()
		for _, e := range events {
			switch e.Type {
			case client.EventBinderWanted:
				err = errors.Join(err, g.want(e.Addr))
			case client.EventCrashed:
				g.crashes++
			}
		}
		g.err = errors.Join(g.err, err)
		g.mu.Unlock()
	}
}

// want makes or restores the instance of an app.
func (g *gated) want(key uint64) error {
	if id, ok := g.instances[key]; ok {
		from, ok := g.saved[key]
		if !ok {
			from = g.base
		}
		_, err := g.session.Restore(from, id, 0)
		return err
	}
	branch, err := g.session.Branch(g.base, 0, key)
	if err != nil {
		return err
	}
	g.instances[key] = branch.ID
	return g.session.Route(key, branch.ID, 0, 0)
}

// save makes a checkpoint of a user's instance.
func (g *gated) save(t *testing.T, uid uint32) uint32 {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.session.Checkpoint(g.instances[uint64(uid)], 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	g.saved[uint64(uid)] = c.ID
	return c.ID
}

func (g *gated) restore(t *testing.T, uid, image uint32) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := g.session.Restore(image, g.instances[uint64(uid)], 0); err != nil {
		t.Fatal(err)
	}
}

// Behind the gate each user has a clipboard, whatever happens to those of others.
func TestGuestClipboardGated(t *testing.T) {
	d := startDesktop(t)
	pasteText(t, 0) // its threads exist
	g := gate(t, d.service.Process.Pid)
	for _, uid := range users {
		if got := pasteText(t, uid); got != "(empty)" {
			t.Errorf("at first uid %d finds %q", uid, got)
		}
		if wrong := copyText(t, uid, fmt.Sprint("text of ", uid)); wrong != "" {
			t.Fatalf("uid %d: %s", uid, wrong)
		}
	}
	find := func(when string, uid uint32, want string) {
		t.Helper()
		if got := pasteText(t, uid); got != want {
			t.Errorf("%s uid %d finds %q, want %q", when, uid, got, want)
		}
	}
	earlier := make(map[uint32]uint32)
	for _, uid := range users {
		find("then", uid, fmt.Sprint("text of ", uid))
		earlier[uid] = g.save(t, uid)
	}
	if wrong := copyText(t, 2001, "a later text"); wrong != "" {
		t.Error(wrong)
	}
	find("later", 2001, "a later text")
	if copyText(t, 2002, "crash") == "" {
		t.Error("the text that crashes the service was copied")
	}
	find("after the crash", 2001, "a later text")
	find("after the crash", 2003, "text of 2003")
	find("after the crash", 2002, "text of 2002")
	g.restore(t, 2001, earlier[2001])
	find("restored", 2001, "text of 2001")
	g.mu.Lock()
	if g.crashes != 1 {
		t.Errorf("%d crashes", g.crashes)
	}
	g.mu.Unlock()
	stats, err := g.session.BinderStats()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", stats)
	if stats.Timeouts > 0 {
		t.Errorf("%d transactions have waited for too long", stats.Timeouts)
	}
}
