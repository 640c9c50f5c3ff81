package fork

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// filesystem is Python that does things to the directory D, and says all there is to say about it.
const filesystem = `
import hashlib, random, stat, fcntl, mmap, errno

def tree():
    first, out = {}, []
    for base, dirs, files in os.walk(D):
        dirs.sort()
        for name in sorted(files + dirs) + ['.']:
            p = os.path.join(base, name)
            s = os.lstat(p)
            line = [os.path.relpath(p, D), oct(s.st_mode), s.st_uid, s.st_gid, s.st_rdev, s.st_mtime_ns]
            if not stat.S_ISDIR(s.st_mode):
                line += [s.st_nlink, first.setdefault(s.st_ino, p)]
            if stat.S_ISREG(s.st_mode) and name != 'lk': # whose locks would go when it is closed
                line += [s.st_size, hashlib.sha256(open(p, 'rb').read()).hexdigest()]
            if stat.S_ISLNK(s.st_mode):
                line += [os.readlink(p)]
            line += [(a, os.getxattr(p, a, follow_symlinks=False)) for a in sorted(os.listxattr(p, follow_symlinks=False))]
            out.append(line)
    return hashlib.sha256(repr(out).encode()).hexdigest()

def pick(r, kind):
    all = [D] if kind == stat.S_ISDIR else []
    for base, dirs, files in os.walk(D):
        all += [p for n in sorted(dirs + files) if kind((p := os.path.join(base, n)) and os.lstat(p).st_mode)]
    return r.choice(sorted(all)) if all else None

def change(seed, n):
    r = random.Random(seed)
    for i in range(n):
        new = os.path.join(pick(r, stat.S_ISDIR), 'n%d-%d' % (seed, i))
        f, d = pick(r, stat.S_ISREG), pick(r, stat.S_ISDIR)
        try:
            what = r.randrange(14)
            if what < 3 or not f: open(new, 'wb').write(r.randbytes(r.randrange(9000)))
            elif what == 3: os.mkdir(new)
            elif what == 4: os.symlink('../x%d' % i, new)
            elif what == 5 and seed != 1: os.link(pick(r, stat.S_ISREG), new)
            elif what == 6: open(f, 'ab').write(r.randbytes(500))
            elif what == 7: os.rename(f, new)
            elif what == 8 and (o := pick(r, stat.S_ISDIR)) != D: os.rename(o, new)
            elif what == 9: os.unlink(f)
            elif what == 10: os.chmod(r.choice([f, d]), r.randrange(0o1000) | 0o700)
            elif what == 11: os.setxattr(r.choice([f, d]), 'user.x', r.randbytes(20))
            elif what == 12: os.chown(f, r.randrange(1000), r.randrange(1000)); os.mkfifo(new)
            elif what == 13: os.rmdir(d)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EINVAL, errno.EBUSY, errno.EEXIST): raise
    return tree()
`

// private is a service with one private directory, which has been changed a little before it was adopted.
func startPrivate(t *testing.T, python string) (s *service, dir string) {
	t.Helper()
	return startPrivateIn(t, t.TempDir(), python)
}

// startPrivateIn is the same, with the files of instances in a directory of the caller's.
func startPrivateIn(t *testing.T, files, python string) (s *service, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data: 100%")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the service has been destroyed
		left, err := os.ReadDir(files)
		if err != nil || len(left) > 0 {
			t.Errorf("left of private files: %v, %v", left, err)
		}
	})
	python = fmt.Sprintf("D = %q\n", dir) + filesystem + python
	return startEvaluatorWith(t, python, func(target *engine.Target) {
		target.Private, target.Files = []string{dir}, files
	}), dir
}

// checkpointImage is e's checkpoint.
func (e *evaluated) checkpointImage() engine.Image {
	e.t.Helper()
	return e.checkpoint(nil).Image
}

func (e *evaluated) end() {
	e.t.Helper()
	if err := e.in.Kill(); err != nil {
		e.t.Error(err)
	}
}

// Random changes to a private directory are undone by a restore, are kept by a checkpoint, and reach nobody else.
func TestPrivateDirectory(t *testing.T) {
	s, dir := startPrivate(t, "change(1, 60)\n")
	seed := rand.Uint32()
	t.Logf("seed %d", seed)
	base := branchEvaluator(t, s, s.Base())
	first := base.eval("tree()")
	outside := func() string {
		var b strings.Builder
		err := filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
			if err == nil {
				fmt.Fprintln(&b, path, fi.Mode(), fi.Size(), fi.ModTime())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	before := outside()

	a, b := branchEvaluator(t, s, s.Base()), branchEvaluator(t, s, s.Base())
	a.must(first, "tree()")
	other := b.eval("change(%d, 40)", seed+1000)
	img, want := s.Base(), first
	for round := range 6 {
		e := branchEvaluator(t, s, img)
		e.must(want, "tree()")
		want = e.eval("change(%d, 25)", seed+uint32(round))
		if strings.Contains(want, "Error") {
			t.Fatal(want)
		}
		next := e.checkpointImage()
		e.must(want, "tree()")
		e.eval("change(%d, 10)", seed+100) // to be undone
		if img != s.Base() {
			if err := img.Discard(); err != nil {
				t.Fatal(err)
			}
		}
		img = next
		if round%2 == 0 { // as after a crash; else as for a rollback by hand
			e.end()
		} else {
			defer e.end()
		}
	}
	b.must(other, "tree()")
	base.must(first, "tree()")
	if after := outside(); after != before {
		t.Errorf("the directory itself has changed: %s\nwas %s", after, before)
	}
	for _, e := range []*evaluated{a, b, base} {
		e.end()
	}
}

// Mounts of instances are nobody else's.
func TestPrivateMounts(t *testing.T) {
	s, dir := startPrivate(t, "")
	e := branchEvaluator(t, s, s.Base())
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, t.Name()) {
			t.Errorf("an instance's mount is seen outside: %s", line)
		}
	}
	var st, inside unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/root%s", e.in.PID(), dir), &inside); err != nil {
		t.Fatal(err)
	}
	if inside.Dev == st.Dev {
		t.Error("the instance's directory is the service's own")
	}
	e.end()
}

// refusesCheckpoint wants a checkpoint of e to be refused in words that contain want, and e to go on.
func (e *evaluated) refusesCheckpoint(want string) {
	e.t.Helper()
	e.park()
	_, _, err := e.in.s.Checkpoint(context.Background(), e.in, e.conns)
	if !errors.Is(err, engine.ErrRefused) || !strings.Contains(err.Error(), want) {
		e.t.Errorf("checkpoint: %v, want a refusal that says %q", err, want)
	}
	e.activate()
	e.must("2", "1 + 1")
}

const inotify = `
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def watch():
    n = libc.inotify_init1(os.O_CLOEXEC)
    libc.inotify_add_watch(n, D.encode(), 0x100)
    return n
`

// What would concern the directory of another is refused.
func TestPrivateRefusals(t *testing.T) {
	s, _ := startPrivate(t, inotify)
	e := branchEvaluator(t, s, s.Base())
	e.must("True", "(w := watch()) > 2")
	e.refusesCheckpoint("inotify")
	e.must("None", "os.close(w)")
	e.must("None", "[os.mkdir(D + '/x'), os.chdir(D + '/x'), os.rmdir(D + '/x')][2]")
	e.refusesCheckpoint("working directory")
	e.must("None", "os.chdir('/')")
	e.must("0", "[os.mkdir(D + '/m'), libc.mount(b'none', (D + '/m').encode(), b'tmpfs', 0, None)][1]")
	e.refusesCheckpoint("mount")
	e.must("0", "libc.umount2((D + '/m').encode(), 0)")
	e.must("None", "[f := open(D + '/a', 'w'), os.link(D + '/a', D + '/b'), os.unlink(D + '/a')][2]")
	e.refusesCheckpoint("it has others")
	e.must("5", "[f.close(), (f := open(D + '/b', 'r+')).write('short'), f.flush(), m := libc.mmap(None, 4096, 3, 1, f.fileno(), 0), f.close(), os.unlink(D + '/b')][1]")
	e.refusesCheckpoint("mapping")
	e.must("0", "libc.munmap(m, 4096)")
	if err := e.checkpointImage().Discard(); err != nil {
		t.Error(err)
	}
	e.end()
}

const numbered = `
open(os.path.join(D, 'old'), 'w').write('1')
files = {}
def make(n):
    for name in 'a%d' % n, 'b%d' % n:
        open(os.path.join(D, name), 'w').write(name)
        files[name] = os.open(os.path.join(D, name), os.O_RDWR)
    os.rename(os.path.join(D, 'a%d' % n), os.path.join(D, 'c%d' % n))
def numbers():
    return [(n, os.stat(os.path.join(D, n)).st_ino) for n in sorted(os.listdir(D))] + [(n, os.fstat(f).st_ino) for n, f in sorted(files.items())]
`

// Files have the inode numbers that the instance has seen before, also those that it has made itself.
func TestPrivateInodes(t *testing.T) {
	memory, err := os.MkdirTemp("/dev/shm", "corsa-files-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(memory); err != nil {
			t.Error(err)
		}
	})
	for name, files := range map[string]string{"same": t.TempDir(), "other": memory} {
		t.Run(name, func(t *testing.T) {
			s, _ := startPrivateIn(t, files, numbered)
			if s.files.origins == nil {
				t.Skip("the file system of temporary files has no handles of files that overlays use")
			}
			e := branchEvaluator(t, s, s.Base())
			var images []engine.Image
			for round := range 4 {
				e.must("None", "make(%d)", round)
				want := e.eval("numbers()")
				images = append(images, e.checkpointImage())
				e.must(want, "numbers()")
				e.must("None", "make(%d)", 50+round)
				if round%2 == 0 {
					e.end()
				} else {
					defer e.end()
				}
				e = branchEvaluator(t, s, images[round])
				e.must(want, "numbers()")
				twin := branchEvaluator(t, s, images[round/2])
				twin.must("True", "dict(numbers())['c0'] == %s", e.eval("dict(numbers())['c0']"))
				twin.end()
			}
			s.files.removed.Wait()
			if kept, err := os.ReadDir(s.files.keptDir()); err != nil || len(kept) == 0 {
				t.Errorf("nothing is kept of the instances that have ended: %v", err)
			}
			for _, img := range images {
				if err := img.Discard(); err != nil {
					t.Error(err)
				}
			}
			e.end()
		})
	}
}

// Without room for the files there is no checkpoint and no branch, the instance goes on, and nothing is left half done.
func TestPrivateDiskFull(t *testing.T) {
	small := t.TempDir()
	if err := unix.Mount("none", small, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, _ := startPrivateIn(t, small, "def fill(n): open(os.path.join(D, 'f'), 'wb').write(b'x' * n)\n")
	e := branchEvaluator(t, s, s.Base())
	e.must("None", "fill(1000)")
	img := e.checkpointImage()
	e.must("None", "fill(1500000)")
	want := e.eval("tree()")
	trees := func() int {
		t.Helper()
		s.files.removed.Wait()
		all, err := filepath.Glob(filepath.Join(small, "tree-*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := trees()
	for range 3 {
		e.park()
		_, _, err := s.Checkpoint(context.Background(), e.in, e.conns)
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("checkpoint: %v, want %v", err, unix.ENOSPC)
		}
		e.activate()
		e.must(want, "tree()")
	}
	if now := trees(); now > before {
		t.Errorf("there are %d trees, and were %d", now, before)
	}
	back := branchEvaluator(t, s, img)
	back.must("1000", "len(open(D + '/f').read())")
	back.end()
	e.must("None", "fill(100)")
	if err := e.checkpointImage().Discard(); err != nil {
		t.Error(err)
	}
	e.end()
}

// A monitor that takes over removes what the last one had begun and nobody knows of, and nothing else.
func TestPrivateSweep(t *testing.T) {
	s, _ := startPrivate(t, numbered)
	e := branchEvaluator(t, s, s.Base())
	e.must("None", "make(1)")
	img := e.checkpointImage()
	want := e.eval("numbers()")
	lost, err := s.files.branch(img.(*image).files) // as if a monitor had died before the instance had it
	if err != nil {
		t.Fatal(err)
	}
	target, state := s.target, s.Handle()
	instance, checkpoint := e.in.Handle(), img.Handle()
	e.park()
	again, err := New().Recover(context.Background(), target, state)
	if err != nil {
		t.Fatal(err)
	}
	taken := again.(*service)
	in, err := taken.OpenInstance(context.Background(), instance)
	if err != nil {
		t.Fatal(err)
	}
	second, err := taken.OpenImage(context.Background(), checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	if err := taken.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.files.dir, lost.Name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the tree that nobody knows of is still there: %v", err)
	}
	e.activate()
	e.must(want, "numbers()")
	if err := in.Kill(); err != nil {
		t.Error(err)
	}
	restored := branchEvaluator(t, taken, second)
	restored.must(want, "numbers()")
	restored.end()
	if err := second.Discard(); err != nil {
		t.Error(err)
	}
	if err := taken.Close(); err != nil {
		t.Error(err)
	}
}

// A service that could not enter a mount namespace is refused before it is touched.
func TestPrivateWithoutPrivilege(t *testing.T) {
	dir, files, sock := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "s")
	if err := errors.Join(os.Chmod(filepath.Dir(sock), 0o777), os.Chmod(filepath.Dir(filepath.Dir(sock)), 0o777)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", "-c", evaluator, sock, "os.setresuid(65534, 65534, 65534)")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it ends in no other way
		_ = cmd.Wait()
	})
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(sock); err == nil {
			break
		} else if time.Since(begun) > 20*time.Second {
			t.Fatal(err)
		}
	}
	_, err := New().Adopt(context.Background(), engine.Target{
		PID: cmd.Process.Pid, Listeners: []engine.Address{{Network: "unix", Address: sock}}, Dir: t.TempDir(), Private: []string{dir},
		Files: files, Log: logrus.NewEntry(logrus.New()),
	})
	if !errors.Is(err, engine.ErrRefused) || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("adopt: %v", err)
	}
	left, err := os.ReadDir(files)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
