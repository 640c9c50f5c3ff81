package vm

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// cpioWriter writes the archive that a kernel unpacks into its first file system ("newc", without checksums). Everything
// in it belongs to root.
type cpioWriter struct {
	w     io.Writer
	inode int
	made  map[string]bool // directories
	err   error
}

func newCPIO(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, made: map[string]bool{".": true, "/": true, "": true}}
}

func (c *cpioWriter) header(name string, mode, size int) {
	if c.err != nil {
		return
	}
	c.inode++
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	c.write(strings.NewReader(h), len(h))
}

// write copies n bytes and pads them to a multiple of four.
func (c *cpioWriter) write(r io.Reader, n int) {
	if c.err != nil {
		return
	}
	if _, err := io.CopyN(c.w, r, int64(n)); err != nil {
		c.err = err
		return
	}
	_, c.err = c.w.Write(make([]byte, -n&3))
}

// dir makes name and the directories above it.
func (c *cpioWriter) dir(name string, mode fs.FileMode) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if c.made[name] {
		return
	}
	c.dir(path.Dir(name), 0o755)
	c.made[name] = true
	c.header(name, unix.S_IFDIR|int(mode.Perm()), 0)
}

func (c *cpioWriter) bytes(name string, mode fs.FileMode, content string) {
	c.reader(name, mode, strings.NewReader(content), len(content))
}

func (c *cpioWriter) reader(name string, mode fs.FileMode, r io.Reader, size int) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	c.dir(path.Dir(name), 0o755)
	c.header(name, unix.S_IFREG|int(mode.Perm()), size)
	c.write(r, size)
}

// tree puts a file or a directory of the host at name. Symbolic links inside a directory are kept as they are, a file
// that is named itself is followed.
func (c *cpioWriter) tree(name, host string) {
	if c.err != nil {
		return
	}
	info, err := os.Stat(host)
	if err != nil {
		c.err = err
		return
	}
	if !info.IsDir() {
		c.file(name, host, info)
		return
	}
	err = filepath.WalkDir(host, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		c.entry(path.Join(name, filepath.ToSlash(strings.TrimPrefix(p, host))), p, info)
		return c.err
	})
	if c.err == nil {
		c.err = err
	}
}

// entry puts one directory, link or regular file of the host at name, without what is in it. Others are left out.
func (c *cpioWriter) entry(name, host string, info fs.FileInfo) {
	switch {
	case c.err != nil:
	case info.IsDir():
		c.dir(name, info.Mode())
	case info.Mode().IsRegular():
		c.file(name, host, info)
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(host)
		if err != nil {
			c.err = err
			return
		}
		c.dir(path.Dir(name), 0o755)
		c.header(strings.TrimPrefix(path.Clean(name), "/"), unix.S_IFLNK|0o777, len(target))
		c.write(strings.NewReader(target), len(target))
	}
}

func (c *cpioWriter) file(name, host string, info fs.FileInfo) {
	f, err := os.Open(host)
	if err != nil {
		c.err = err
		return
	}
	defer func() { _ = f.Close() }()
	c.reader(name, info.Mode(), f, int(info.Size()))
}

func (c *cpioWriter) close() error {
	c.header("TRAILER!!!", 0, 0)
	return c.err
}
