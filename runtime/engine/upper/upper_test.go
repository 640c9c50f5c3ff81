package upper

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// describe says all there is to say about a tree, in a way that has nothing in common with how it is copied. Files with
// several names are told apart by the first of these.
func describe(t *testing.T, root string) []string {
	t.Helper()
	first := map[uint64]string{}
	var out []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, root)
		line := fmt.Sprintf("%s mode %o owner %d:%d rdev %d mtime %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if _, ok := first[st.Ino]; !ok {
				first[st.Ino] = rel
			}
			line += fmt.Sprintf(" nlink %d file %s", st.Nlink, first[st.Ino])
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOATIME, 0) // what is described must not change by that
			if err != nil {
				return err
			}
			data, err := io.ReadAll(f)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			line += fmt.Sprintf(" atime %d.%09d", st.Atim.Sec, st.Atim.Nsec)
			line += fmt.Sprintf(" size %d sum %x", len(data), sha256.Sum256(data))
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " to " + to
		}
		attrs, err := attributesOf(path)
		out = append(out, line+attrs)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return out
}

func attributesOf(path string) (string, error) {
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		return "", err
	}
	var all []string
	for _, name := range bytes.Split(names[:n], []byte{0}) {
		if len(name) == 0 {
			continue
		}
		value := make([]byte, 4096)
		m, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return "", fmt.Errorf("%s of %s: %w", name, path, err)
		}
		all = append(all, fmt.Sprintf(" %s=%x", name, value[:m]))
	}
	slices.Sort(all)
	return strings.Join(all, ""), nil
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: whiteouts are device nodes, and the overlay's attributes are trusted ones")
	}
}

// directories in which the copy is tried: on the file system of temporary files, and from there into memory.
func directories(t *testing.T) map[string][2]string {
	t.Helper()
	shm, err := os.MkdirTemp("/dev/shm", "corsa-upper-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(shm); err != nil {
			t.Error(err)
		}
	})
	return map[string][2]string{
		"same":  {t.TempDir(), t.TempDir()},
		"other": {t.TempDir(), shm},
	}
}

// TestRandomTrees does random things to a tree, copies it after every few of them, and wants the copy to be the same.
func TestRandomTrees(t *testing.T) {
	needRoot(t)
	for name, dirs := range directories(t) {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			w := &world{t: t, root: dirs[0], rng: rand.New(rand.NewPCG(seed, 1))}
			for round := range 12 {
				for range 20 {
					w.step()
				}
				want := describe(t, w.root)
				copied := filepath.Join(dirs[1], fmt.Sprint(round))
				if err := os.Mkdir(copied, 0o700); err != nil {
					t.Fatal(err)
				}
				usage, err := Copy(w.root, copied)
				if err != nil {
					t.Fatal(err)
				}
				same(t, want, describe(t, copied))
				if now := describe(t, w.root); !slices.Equal(now, want) {
					t.Fatal("the copy has changed the original")
				}
				if usage.Files != len(want)-1 {
					t.Fatalf("%d files were counted of %d", usage.Files, len(want)-1)
				}
				measured, err := Measure(copied)
				if err != nil || measured.Files != usage.Files {
					t.Fatalf("measured %+v, %v; want %d files", measured, err, usage.Files)
				}
			}
		})
	}
}

func same(t *testing.T, want, got []string) {
	t.Helper()
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("line %d of %d and %d:\n%s\n%s", i, len(want), len(got), at(want, i), at(got, i))
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "nothing"
}

// world is a tree to which things are done.
type world struct {
	t    *testing.T
	root string
	rng  *rand.Rand
	next int
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		w.t.Fatal(err)
	}
}

// pick returns a path of one of these kinds of files; "" if there is none.
func (w *world) pick(kinds ...uint32) string {
	var all []string
	err := filepath.WalkDir(w.root, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if err == nil && slices.Contains(kinds, st.Mode&unix.S_IFMT) {
			all = append(all, path)
		}
		return err
	})
	w.must(err)
	if len(all) == 0 {
		return ""
	}
	return all[w.rng.IntN(len(all))]
}

func (w *world) fresh() string {
	w.next++
	return filepath.Join(w.pick(unix.S_IFDIR), fmt.Sprintf("f%d \n\xff", w.next))
}

func (w *world) step() {
	some := w.pick(unix.S_IFREG, unix.S_IFDIR)
	file := w.pick(unix.S_IFREG)
	switch w.rng.IntN(14) {
	case 0, 1, 2:
		w.must(os.WriteFile(w.fresh(), w.bytes(w.rng.IntN(20000)), 0o644))
	case 3:
		w.must(os.Mkdir(w.fresh(), 0o755))
	case 4:
		w.must(os.Symlink(fmt.Sprintf("../nowhere/%d", w.next), w.fresh()))
	case 5:
		if old := w.pick(unix.S_IFREG, unix.S_IFLNK, unix.S_IFCHR); old != "" {
			w.must(os.Link(old, w.fresh()))
		}
	case 6:
		w.must(unix.Mknod(w.fresh(), []uint32{unix.S_IFCHR, unix.S_IFIFO, unix.S_IFSOCK}[w.rng.IntN(3)]|0o400, 0))
	case 7:
		if file != "" {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			w.must(err)
			_, err = f.WriteAt(w.bytes(100), int64(w.rng.IntN(1<<20))) // leaves a hole
			w.must(errors.Join(err, f.Close()))
		}
	case 8:
		w.must(unix.Setxattr(some, []string{"user.a", "trusted.overlay.opaque", "trusted.overlay.origin"}[w.rng.IntN(3)], w.bytes(w.rng.IntN(300)), 0))
	case 9:
		w.must(os.Chmod(some, fs.FileMode(w.rng.IntN(0o777))|fs.ModeSetuid))
	case 10:
		w.must(os.Lchown(some, w.rng.IntN(70000), w.rng.IntN(70000)))
	case 11:
		if path := w.pick(unix.S_IFREG, unix.S_IFLNK); path != "" {
			at := unix.Timespec{Sec: w.rng.Int64N(1 << 31), Nsec: w.rng.Int64N(1e9)}
			w.must(unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW))
		}
	case 12:
		if path := w.pick(unix.S_IFREG, unix.S_IFLNK, unix.S_IFCHR); path != "" {
			w.must(os.Rename(path, w.fresh()))
		}
	case 13:
		if path := w.pick(unix.S_IFREG, unix.S_IFDIR); path != w.root {
			w.must(os.Remove(path))
		}
	}
}

func (w *world) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.rng.Uint32())
	}
	return b
}

// A copy has holes where the original has them.
func TestHoles(t *testing.T) {
	for name, dirs := range directories(t) {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(dirs[0], "sparse"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt([]byte("x"), 64<<20)
			if err := errors.Join(err, f.Truncate(128<<20), f.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := Copy(dirs[0], dirs[1]); err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dirs[1], "sparse"), &st); err != nil {
				t.Fatal(err)
			}
			if st.Size != 128<<20 || st.Blocks*512 > 1<<20 {
				t.Errorf("the copy has %d bytes in %d", st.Size, st.Blocks*512)
			}
		})
	}
}
