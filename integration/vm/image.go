package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	imageFormat = "2"            // to be changed with anything that makes other images of the same files
	imageFree   = 1 << 30        // bytes that are free on the disk of a VM; they cost nothing until they are written
	imageLife   = 72 * time.Hour // images that have not been used for so long are removed
)

// imageFiles are in every image.
var imageFiles = map[string]string{
	"/etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"/etc/group":         "root:x:0:\nnogroup:x:65534:\n",
	"/etc/hosts":         "127.0.0.1 localhost vm\n",
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}

// programClosure is what an image for these programs holds.
func programClosure(programs []string) (*closure, error) {
	c, err := newClosure()
	if err != nil {
		return nil, err
	}
	for _, p := range append([]string{"busybox"}, programs...) {
		if err := c.program(p); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// image returns the path of an ext4 image that holds the closure. It is made once and kept; a VM writes to a layer of
// its own on top.
func (c *closure) image() (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, c.key()+".ext4")
	now := time.Now()
	if err := os.Chtimes(path, now, now); err == nil {
		return path, nil
	}
	return path, c.makeImage(dir, path)
}

// key names the closure by its files, their sizes and times.
func (c *closure) key() string {
	h := sha256.New()
	fmt.Fprintln(h, imageFormat)
	for _, path := range slices.Sorted(maps.Keys(c.files)) {
		info := c.files[path]
		if info.IsDir() {
			fmt.Fprintln(h, path, info.Mode())
			continue
		}
		fmt.Fprintln(h, path, info.Mode(), info.Size(), info.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// makeImage copies the closure into a directory, makes the image of it and moves that to path. Several may do so at a
// time; the directory of one that was killed is removed by the next.
func (c *closure) makeImage(dir, path string) (err error) {
	if err := sweep(dir); err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, "work-")
	if err != nil {
		return err
	}
	lock, err := os.Open(work)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(work), lock.Close())
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", work, err)
	}
	root := filepath.Join(work, "root")
	size, err := c.copyTo(root)
	if err != nil {
		return fmt.Errorf("copy programs for a VM: %w", err)
	}
	if err := finishRoot(root); err != nil {
		return err
	}
	mkfs, err := lookPath("mkfs.ext4")
	if err != nil {
		return err
	}
	file := filepath.Join(work, "image")
	cmd := exec.Command(mkfs, "-q", "-F", "-d", root, "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0",
		file, fmt.Sprintf("%dk", (size+size/8+imageFree)>>10))
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w\n%s", err, text)
	}
	return os.Rename(file, path)
}

// copyTo makes the closure's tree below root and returns its size in bytes.
func (c *closure) copyTo(root string) (size int64, err error) {
	if err := os.Mkdir(root, 0o755); err != nil {
		return 0, err
	}
	for _, path := range slices.Sorted(maps.Keys(c.files)) { // a directory comes before what is in it
		info, to := c.files[path], filepath.Join(root, path)
		switch {
		case info.IsDir():
			err = os.Mkdir(to, info.Mode().Perm()|0o700)
		case info.Mode()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(path); err == nil {
				err = os.Symlink(target, to)
			}
		default:
			size += info.Size() + 4096
			err = copyFile(path, to, info.Mode().Perm())
		}
		if err != nil {
			return 0, err
		}
	}
	return size, nil
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// finishRoot adds what every VM has: the usual directories, a few files, and busybox for each command that the programs
// do not bring.
func finishRoot(root string) error {
	for link, target := range merged {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, name := range []string{"usr/bin", "usr/sbin", "usr/lib64", "usr/lib/busybox", "etc", "root", "proc", "sys", "dev", "tmp", "run", "var/tmp", "mnt", "out"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "var/tmp"), 0o777|fs.ModeSticky); err != nil {
		return err
	}
	for path, text := range imageFiles {
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	busybox, err := lookPath("busybox")
	if err != nil {
		return err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	for _, name := range strings.Fields(string(applets)) {
		if err := os.Symlink(busybox, filepath.Join(root, "usr/lib/busybox", name)); err != nil {
			return err
		}
	}
	// Scripts name their shell by its path.
	if err := os.Symlink(busybox, filepath.Join(root, "bin/sh")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// sweep removes what makers of images that were killed have left, and images that nobody uses any more.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil {
			continue // another has just removed it
		}
		if !e.IsDir() {
			if time.Since(info.ModTime()) > imageLife {
				err = os.Remove(path)
			}
		} else if lock, openErr := os.Open(path); openErr == nil {
			// A maker locks its directory right after it has made it.
			if time.Since(info.ModTime()) > time.Second && unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				err = os.RemoveAll(path)
			}
			_ = lock.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
