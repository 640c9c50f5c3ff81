package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// lookProgram finds the program of spec.Process as its user would find it in the container of which initPID is the
// first process, with all mounts in place. The errors are those of os/exec, as runc's are.
func lookProgram(initPID int, spec *specs.Spec) (string, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", initPID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open the container's root: %w", err)
	}
	defer unix.Close(root)

	p := spec.Process
	name := p.Args[0]
	if strings.ContainsRune(name, '/') {
		path := absFrom(p.Cwd, name)
		if err := executable(root, path, spec); err != nil {
			return "", &exec.Error{Name: name, Err: err}
		}
		return path, nil
	}
	for _, dir := range filepath.SplitList(searchPath(p.Env)) {
		path := filepath.Join(absFrom(p.Cwd, dir), name)
		if executable(root, path, spec) == nil {
			return path, nil
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// searchPath is the last PATH in env, as it is for the program.
func searchPath(env []string) string {
	for _, v := range slices.Backward(env) {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			return path
		}
	}
	return ""
}

// executable tells whether the process's user may execute the file at path below root.
func executable(root int, path string, spec *specs.Spec) error {
	fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG || !mayExecute(&st, spec):
		return os.ErrPermission
	}
	return nil
}

// mayExecute looks at the mode bits only; the reaper reports what it does not see. Ids of a user namespace are not
// those of the file, so any bit will do there.
func mayExecute(st *unix.Stat_t, spec *specs.Spec) bool {
	u := spec.Process.User
	if u.UID == 0 || len(spec.Linux.UIDMappings) > 0 {
		return st.Mode&0o111 != 0
	}
	switch {
	case st.Uid == u.UID:
		return st.Mode&0o100 != 0
	case st.Gid == u.GID || slices.Contains(u.AdditionalGids, st.Gid):
		return st.Mode&0o010 != 0
	}
	return st.Mode&0o001 != 0
}
