package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/sockpath"
)

// What cannot be dumped is named, with the way out, and the container goes on.
func TestDumpNamesWhatIsInTheWay(t *testing.T) {
	d := newDumpable(t)
	for _, v := range []struct {
		name, script, want string
		flags              []string // with which it works; nil: nothing helps
	}{
		{
			"tcp", `l = socket.socket(); l.bind(("127.0.0.1", 7000)); l.listen(); c = socket.create_connection(("127.0.0.1", 7000)); a = l.accept()`,
			"use --tcp-established",
			[]string{"--tcp-established"},
		},
		{"lock", `f = open("/state/lock", "w"); fcntl.flock(f, fcntl.LOCK_EX)`, "use --file-locks", []string{"--file-locks"}},
		{
			"link", `f = open("/state/a", "w"); os.link("/state/a", "/state/b"); os.unlink("/state/a")`,
			"/state/a was deleted and is open, and has another name; use --link-remap",
			[]string{"--link-remap"},
		},
		{"ghost", `f = open("/state/a", "w"); f.write("x" * (65 << 20)); f.flush(); os.unlink("/state/a")`, "/state/a was deleted, is open, and has 68157440 bytes", nil},
		{"uring", `b = ctypes.create_string_buffer(200); assert ctypes.CDLL(None).syscall(425, 8, b) >= 0`, "io_uring", nil},
		{"unix", `s = socket.socket(socket.AF_UNIX); s.connect("/outside/socket")`, "a unix socket outside the container", nil},
	} {
		t.Run(v.name, func(t *testing.T) {
			sub := &dumpable{&corsa{t: t, root: d.root}, t.TempDir()}
			id, bundle := unique("way"), sub.python(countTo+v.script+"\ncountForEver()\n")
			outside := sub.image("outside")
			if err := os.Mkdir(outside, 0o777); err != nil {
				t.Fatal(err)
			}
			listenOn(t, filepath.Join(outside, "socket"))
			editSpec(t, bundle, func(s *specs.Spec) {
				s.Linux.Seccomp = nil
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/outside", Source: outside, Type: "bind", Options: []string{"bind"}})
			})
			sub.start(id, bundle)
			defer sub.ok("delete", "--force", id)
			img := sub.image("img")
			sub.fails(1, v.want, "checkpoint", "--image-path", img, id)
			sub.countsOn(bundle)
			if _, err := os.Stat(filepath.Join(img, "corsa.json")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what failed is an image: %v", err)
			}
			if v.flags != nil {
				sub.ok(append(append([]string{"checkpoint", "--leave-running", "--image-path", img}, v.flags...), id)...)
				sub.countsOn(bundle)
			}
		})
	}
}

// listenOn makes a unix socket that accepts nothing.
func listenOn(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	bind := func(name string) error { return unix.Bind(fd, &unix.SockaddrUnix{Name: name}) }
	if err := errors.Join(sockpath.With(path, bind), unix.Listen(fd, 8)); err != nil {
		t.Fatal(err)
	}
}

func TestDumpIntoAFullDisk(t *testing.T) {
	d := newDumpable(t)
	id, bundle := unique("full"), d.python(memoryScript)
	d.start(id, bundle)
	small := d.image("small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	d.fails(1, "no space left on device", "checkpoint", "--image-path", filepath.Join(small, "img"), id)
	d.countsOn(bundle)
	d.fails(1, "not a checkpoint image", "restore", "--detach", "--image-path", filepath.Join(small, "img"), "--bundle", bundle, unique("full"))
}

func TestDumpOfWhatDoesNotRun(t *testing.T) {
	d := newDumpable(t)
	id, bundle := unique("not"), d.bundle(counter, nil)
	d.mustDetach("create", "--bundle", bundle, id)
	d.fails(1, "it is created", "checkpoint", "--image-path", d.image("i"), id)
	d.ok("start", id)
	d.countsOn(bundle)
	d.ok("kill", id, "KILL")
	eventually(t, "it stops", func() bool { return strings.Contains(d.ok("state", id), `"stopped"`) })
	d.fails(1, "it is stopped", "checkpoint", "--image-path", d.image("i"), id)
	if _, err := os.Stat(d.image("i")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an image directory was made: %v", err)
	}
}

func TestDumpHasATimeLimit(t *testing.T) {
	d := newDumpable(t)
	id, bundle := unique("slow"), d.bundle(counter, nil)
	d.start(id, bundle)
	d.fails(1, "CRIU took too long", "checkpoint", "--timeout", "5ms", "--image-path", d.image("i"), id)
	d.countsOn(bundle)
	d.ok("checkpoint", "--image-path", d.image("i"), id)
	other := unique("slow")
	stderr, code := d.detached("restore", "--detach", "--timeout", "5ms", "--image-path", d.image("i"), "--bundle", bundle, other)
	if code == 0 || !strings.Contains(stderr, "CRIU took too long") {
		t.Errorf("restore: exit code %d, %s", code, stderr)
	}
	d.nothingLeft(other)
}

// nothingLeft fails if there is anything of container id.
func (d *dumpable) nothingLeft(id string) {
	d.t.Helper()
	if left := leftovers(d.t, id); left != nil {
		d.t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(filepath.Join(d.root, id)); !errors.Is(err, fs.ErrNotExist) {
		d.t.Errorf("the state directory is left: %v", err)
	}
	eventually(d.t, "the guard of the restore has ended", func() bool {
		return exec.Command("pgrep", "-f", "restore-guard "+d.root+" "+id+" ").Run() != nil
	})
}

// A restore that cannot be right is refused before CRIU is called, and leaves image and root as they were.
func TestRestoreRefusesWhatDoesNotFit(t *testing.T) {
	d := newDumpable(t)
	id, bundle := unique("fit"), d.bundle(counter, nil)
	d.start(id, bundle)
	img := d.image("img")
	d.ok("checkpoint", "--image-path", img, id)

	root := filepath.Join(bundle, "rootfs")
	manifest := func(change func(map[string]any)) func() error {
		return func() error {
			path := filepath.Join(img, "corsa.json")
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			m := map[string]any{}
			if err := json.Unmarshal(data, &m); err != nil {
				return err
			}
			change(m)
			if data, err = json.Marshal(m); err != nil {
				return err
			}
			return os.WriteFile(path, data, 0o600)
		}
	}
	shorten := func(name string) func() error {
		return func() error { return os.Truncate(filepath.Join(img, name), 9) }
	}
	for _, v := range []struct {
		name, want string
		damage     func() error
	}{
		{"no image", "not a checkpoint image: it has no inventory.img", func() error { return os.Remove(filepath.Join(img, "inventory.img")) }},
		{"truncated pages", "pages-1.img is truncated", shorten("pages-1.img")},
		{"truncated process", "core-1.img is truncated", shorten("core-1.img")},
		{"missing file", "files.img is missing", func() error { return os.Remove(filepath.Join(img, "files.img")) }},
		{"damaged manifest", "corsa.json", shorten("corsa.json")},
		{"other machine", "image of another machine: it was dumped on arm64", manifest(func(m map[string]any) { m["machine"] = "arm64" })},
		{"other CPU", "nosuchfeature", manifest(func(m map[string]any) { m["cpu"] = append(m["cpu"].([]any), "nosuchfeature") })},
		{"truncated image of runc's", "files.img is truncated", func() error {
			return errors.Join(os.Remove(filepath.Join(img, "corsa.json")), shorten("files.img")())
		}},
		{"larger program", "/bin/busybox has", func() error { return appendTo(filepath.Join(root, "bin/busybox")) }},
		{"other program", "/bin/busybox", func() error {
			size, err := os.Stat(filepath.Join(root, "bin/busybox"))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(root, "bin/busybox"), make([]byte, size.Size()), 0o755)
		}},
		{"no program", "/bin/busybox is missing", func() error { return os.Remove(filepath.Join(root, "bin/busybox")) }},
		{"other mode", "/bin/busybox has mode", func() error { return os.Chmod(filepath.Join(root, "bin/busybox"), 0o700) }},
	} {
		t.Run(v.name, func(t *testing.T) {
			sub := &dumpable{&corsa{t: t, root: d.root}, d.dir}
			keep := t.TempDir()
			for _, dir := range []string{img, root} {
				copyTree(t, dir, keep)
				defer func() {
					if err := os.RemoveAll(dir); err != nil {
						t.Fatal(err)
					}
					copyTree(t, filepath.Join(keep, filepath.Base(dir)), filepath.Dir(dir))
				}()
			}
			if err := v.damage(); err != nil {
				t.Fatal(err)
			}
			before := tree(t, img) + tree(t, root)
			other := unique("fit")
			stderr, code := sub.detached("restore", "--detach", "--image-path", img, "--bundle", bundle, other)
			if code == 0 || !strings.Contains(stderr, v.want) {
				t.Errorf("exit code %d; %q should contain %q", code, stderr, v.want)
			}
			sub.nothingLeft(other)
			if after := tree(t, img) + tree(t, root); after != before {
				t.Errorf("image or root was changed: before\n%s\nafter\n%s", before, after)
			}
		})
	}
	// It was none of that by itself; and runc's images have no manifest.
	if err := os.Remove(filepath.Join(img, "corsa.json")); err != nil {
		t.Fatal(err)
	}
	d.mustDetach("restore", "--detach", "--image-path", img, "--bundle", bundle, id)
	d.countsOn(bundle)
}

func TestRestoreComparesWhatIsMappedWithoutABuildID(t *testing.T) {
	d := newDumpable(t)
	id := unique("map")
	bundle := d.python(countTo + `
import mmap
open("/state/data", "w").write("x" * 8192)
f = open("/state/data", "rb")
m = mmap.mmap(f.fileno(), 8192, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
f.close()
countForEver()
`)
	d.start(id, bundle)
	d.ok("checkpoint", "--image-path", d.image("i"), id)
	data := filepath.Join(bundle, "rootfs/state/data")
	if err := os.WriteFile(data, bytes.Repeat([]byte("y"), 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	stderr, code := d.detached("restore", "--detach", "--image-path", d.image("i"), "--bundle", bundle, id)
	if code == 0 || !strings.Contains(stderr, "/state/data has other content") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if err := os.WriteFile(data, bytes.Repeat([]byte("x"), 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	d.mustDetach("restore", "--detach", "--image-path", d.image("i"), "--bundle", bundle, id)
	d.countsOn(bundle)
}

func TestBundleOfAServiceIsNotRestored(t *testing.T) {
	d := newDumpable(t)
	bundle := d.bundle(counter, func(s *specs.Spec) {
		s.Annotations = map[string]string{"dev.corsa.socket": "/run/x.sock"}
	})
	d.fails(1, "not possible with a virtualised service", "restore", "--detach", "--image-path", d.image("i"), "--bundle", bundle, unique("svc"))
}

func appendTo(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("x")
	return errors.Join(err, f.Close())
}

// tree is what is in dir: names, modes, sizes and times of files.
func tree(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-printf", "%P %m %s %T@ %l\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
