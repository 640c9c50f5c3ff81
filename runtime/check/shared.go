package check

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// resolveShared turns the declared paths into the names that /proc shows for files below them: symbolic links are
// followed inside the root directory of the process.
func (in *inspection) resolveShared() {
	if root, err := os.Readlink(in.dir + "/root"); err == nil {
		in.root = root
	}
	dir, err := unix.Open(in.dir+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		in.shared = in.opts.Shared
		return
	}
	defer unix.Close(dir)
	for _, path := range in.opts.Shared {
		name, err := resolveBelow(dir, path)
		if err != nil { // it may not exist yet: then it is as it was written
			name = filepath.Join(in.root, path)
		}
		in.shared = append(in.shared, name)
	}
}

func resolveBelow(dir int, path string) (string, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(dir, path, &how)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// isShared tells whether path, as /proc shows it, is at or below a declared path.
func (in *inspection) isShared(path string) bool {
	for _, shared := range in.shared {
		if shared == "/" || path == shared || strings.HasPrefix(path, shared+"/") {
			return true
		}
	}
	return false
}

// inside is path as the process itself would write it.
func (in *inspection) inside(path string) string {
	if in.root == "/" || in.root == "" {
		return path
	}
	if rest, ok := strings.CutPrefix(path, in.root); ok && strings.HasPrefix(rest, "/") {
		return rest
	}
	return path
}

func (in *inspection) shareHint(path, otherwise string) string {
	path = in.inside(path)
	return fmt.Sprintf("if all instances may share it, declare it: --shared %s; if each is to have its own, the directory: --private %s; %s",
		path, filepath.Dir(path), otherwise)
}
