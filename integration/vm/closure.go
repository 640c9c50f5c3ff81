package vm

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// companions are directories that a program does not work without. Patterns that match nothing are left out.
var companions = map[string][]string{
	"python3":   {"/usr/lib/python3.[0-9]*"},
	"nginx":     {"/etc/nginx", "/usr/share/nginx", "/usr/lib/nginx"},
	"podman":    {"/etc/containers", "/usr/share/containers"},
	"lxc-start": {"/usr/lib/x86_64-linux-gnu/lxc"},
	"bash":      {"/usr/share/terminfo/l", "/lib/terminfo/l", "/lib/terminfo/v", "/lib/terminfo/x"},
}

// leaveOut are parts of companions that nothing at run time needs.
var leaveOut = []string{"/test", "/tests", "/idlelib", "/ensurepip", "/lib2to3", "/tkinter", "/turtledemo", "/pydoc_data"}

// closure collects files of the host so that programs find all that they load. Keys are paths; a symbolic link is
// listed along with what it points to, so that the result is a tree like the host's.
type closure struct {
	files     map[string]fs.FileInfo
	libraries map[string]string // soname to path
}

func newClosure() (*closure, error) {
	c := &closure{files: make(map[string]fs.FileInfo), libraries: make(map[string]string)}
	ldconfig, err := lookPath("ldconfig")
	if err != nil {
		return nil, err
	}
	text, err := exec.Command(ldconfig, "-p").Output()
	if err != nil {
		return nil, fmt.Errorf("ldconfig -p: %w", err)
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		name, path, ok := strings.Cut(s.Text(), " => ")
		name, kind, _ := strings.Cut(strings.TrimSpace(name), " ")
		if ok && strings.Contains(kind, "x86-64") && c.libraries[name] == "" {
			c.libraries[name] = path
		}
	}
	return c, nil
}

// program adds a program by its name or path, with its interpreter, libraries and companions.
func (c *closure) program(name string) error {
	path, err := lookPath(name)
	if err != nil {
		return err
	}
	if err := c.file(path); err != nil {
		return fmt.Errorf("program %s: %w", name, err)
	}
	for _, pattern := range companions[filepath.Base(name)] {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if err := c.tree(dir); err != nil {
				return fmt.Errorf("program %s: %w", name, err)
			}
		}
	}
	return nil
}

func (c *closure) tree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.ContainsFunc(leaveOut, func(s string) bool { return strings.HasSuffix(path, s) }) {
			return filepath.SkipDir
		}
		if d.IsDir() || d.Type().IsRegular() || d.Type()&fs.ModeSymlink != 0 {
			return c.file(path)
		}
		return nil
	})
}

// file adds a path, every directory and link on the way to it, and what it needs to be loaded.
func (c *closure) file(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s is not an absolute path", path)
	}
	at := "/"
	parts := strings.Split(strings.Trim(filepath.Clean(path), "/"), "/")
	for i, part := range parts {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		_, known := c.files[at]
		c.files[at] = info
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			err = c.file(filepath.Join(append([]string{target}, parts[i+1:]...)...))
			if errors.Is(err, fs.ErrNotExist) && i == len(parts)-1 {
				return nil // a link to nothing is copied as such
			}
			return err
		}
		if info.Mode().IsRegular() && !known {
			return c.needed(at, info)
		}
	}
	return nil
}

// needed adds what the file at path is started with: a script's interpreter, or what a program loads.
func (c *closure) needed(path string, info fs.FileInfo) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	line, err := bufio.NewReaderSize(f, 256).ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(line, []byte(elf.ELFMAG)):
		return c.loaded(path, f)
	case bytes.HasPrefix(line, []byte("#!")) && info.Mode()&0o111 != 0:
		if words := strings.Fields(string(line[2:])); len(words) > 0 && filepath.IsAbs(words[0]) {
			if _, err := os.Stat(words[0]); err == nil {
				return c.file(words[0])
			}
		}
	}
	return nil
}

// loaded adds the loader and the libraries of the file at path, if it is a program or a library.
func (c *closure) loaded(path string, f io.ReaderAt) error {
	e, err := elf.NewFile(f)
	if err != nil || e.Class != elf.ELFCLASS64 || e.Machine != elf.EM_X86_64 || (e.Type != elf.ET_EXEC && e.Type != elf.ET_DYN) {
		return nil // data, as far as this machine is concerned
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if err := c.file(strings.TrimRight(string(name), "\x00")); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	libraries, err := e.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, name := range libraries {
		library, err := c.library(e, path, name)
		if err != nil {
			return err
		}
		if err := c.file(library); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// below adds what the programs load that are at or below path. They themselves are not added.
func (c *closure) below(path string) error {
	return filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) && d.Type()&fs.ModeSymlink != 0 {
			return nil // a link to nothing is copied as such
		}
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		return c.loaded(path, f)
	})
}

// library finds what the dynamic loader would.
func (c *closure) library(e *elf.File, user, name string) (string, error) {
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, err := e.DynString(tag)
		if err != nil {
			continue // a static program has no such section
		}
		for _, dir := range strings.Split(strings.Join(paths, ":"), ":") {
			dir = strings.ReplaceAll(dir, "$ORIGIN", filepath.Dir(user))
			if path := filepath.Join(dir, name); dir != "" && filepath.IsAbs(path) {
				if _, err := os.Stat(path); err == nil {
					return path, nil
				}
			}
		}
	}
	if path := c.libraries[name]; path != "" {
		return path, nil
	}
	return "", fmt.Errorf("%s needs the library %s, which ldconfig does not know", user, name)
}

// lookPath finds a program of the host, also where only root looks for them.
func lookPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		_, err := os.Stat(name)
		return name, err
	}
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("program %s: not found on this machine; run: make deps", name)
}
