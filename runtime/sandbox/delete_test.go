package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// precious is a directory with a file that must survive.
func precious(t *testing.T) (dir string, check func()) {
	t.Helper()
	dir = t.TempDir()
	file := filepath.Join(dir, "etc/file")
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
			t.Errorf("the file behind the mount: %q, %v", data, err)
		}
	}
}

// bindMount mounts source at target, which it makes, until the test is over.
func bindMount(t *testing.T, source, target string) {
	t.Helper()
	if err := os.MkdirAll(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := detachAll(target); err != nil {
			t.Error(err)
		}
	})
}

// A restore that is killed leaves the container's root mounted in the state directory. Removing the latter must not
// empty the former.
func TestDeleteSparesTheRootBehindAStaleRestoreMount(t *testing.T) {
	dir, spec := bundle(t, "sleep", "1000")
	root := t.TempDir()
	s := create(t, Options{Root: root, Bundle: dir, Spec: spec})
	victim, check := precious(t)
	stale := filepath.Join(s.Dir(), "criu-root")
	bindMount(t, victim, stale)
	bindMount(t, victim, stale) // mounts stack
	loaded, err := Load(root, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := loaded.Delete(context.Background(), true); err != nil {
		t.Errorf("delete: %v", err)
	}
	check()
	assertNothingLeft(t, root, s.ID())
}

func TestDeleteRefusesWhileAnythingIsMounted(t *testing.T) {
	dir, spec := bundle(t, "sleep", "1000")
	root := filepath.Join(t.TempDir(), "root with a space") // written as \040 by the kernel
	s := create(t, Options{Root: root, Bundle: dir, Spec: spec})
	victim, check := precious(t)
	mounted := filepath.Join(s.Dir(), "deep/inside")
	bindMount(t, victim, mounted)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(context.Background(), true); !errors.Is(err, ErrMounted) {
		t.Errorf("got %v, want ErrMounted", err)
	}
	check()
	if st, err := s.Status(); err != nil || st != Running {
		t.Errorf("the refusal left the container %s, %v", st, err)
	}
	if err := unix.Unmount(mounted, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(context.Background(), true); err != nil {
		t.Errorf("delete after unmount: %v", err)
	}
	check()
	assertNothingLeft(t, root, s.ID())
}

func TestLeftoverOfAnInterruptedCreateIsRemovedButNoMount(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	victim, check := precious(t)
	mounted := filepath.Join(root, "half", "somewhere")
	bindMount(t, victim, mounted)
	if removed, err := RemoveLeftover(root, "half"); !errors.Is(err, ErrMounted) || removed {
		t.Errorf("got %v, %v; want ErrMounted", removed, err)
	}
	check()
	if err := unix.Unmount(mounted, 0); err != nil {
		t.Fatal(err)
	}
	if removed, err := RemoveLeftover(root, "half"); err != nil || !removed {
		t.Errorf("got %v, %v; want it removed", removed, err)
	}
	if removed, err := RemoveLeftover(root, "half"); err != nil || removed {
		t.Errorf("second time: got %v, %v; want nothing to do", removed, err)
	}
	for _, id := range []string{"", ".", "..", "../x", "a/b"} {
		if _, err := RemoveLeftover(root, id); !errors.Is(err, ErrInvalidID) {
			t.Errorf("id %q: got %v, want ErrInvalidID", id, err)
		}
	}
}

func TestDeleteOfARunningContainerNeedsForce(t *testing.T) {
	dir, spec := bundle(t, "sleep", "1000")
	root := t.TempDir()
	s := create(t, Options{Root: root, Bundle: dir, Spec: spec})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(context.Background(), false); !errors.Is(err, ErrWrongState) {
		t.Errorf("got %v, want ErrWrongState", err)
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(context.Background(), true); err != nil {
		t.Errorf("forced delete of a paused container: %v", err)
	}
	assertNothingLeft(t, root, s.ID())
}
