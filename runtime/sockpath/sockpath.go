// Package sockpath binds and connects unix sockets whose paths do not fit into a socket address.
package sockpath

import (
	"io/fs"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Max is how long a path in a socket address may be, in bytes, without the zero byte at the end.
const Max = 107

// With calls f with a name of the socket path that fits into a socket address: path itself, or one through an open
// descriptor of its directory, which f's thread can use until f returns. A socket that is bound to such a name keeps it as
// its own. The last part of path must be 64 bytes or less.
func With(path string, f func(name string) error) error {
	if len(path) <= Max {
		return f(path)
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(dir)
	return f("/proc/thread-self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path))
}
