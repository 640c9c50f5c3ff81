package hooks

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// owner is who owns what is made in a container: its root, as the host numbers it. The zero value is the host's root.
type owner struct{ uid, gid int }

// rootOf finds out who is root in the user namespace of a process.
func rootOf(pid int) (owner, error) {
	var o owner
	for file, id := range map[string]*int{"uid_map": &o.uid, "gid_map": &o.gid} {
		path := fmt.Sprintf("/proc/%d/%s", pid, file)
		text, err := os.ReadFile(path)
		if err != nil {
			return o, err
		}
		if *id, err = mapped(string(text)); err != nil {
			return o, fmt.Errorf("%s: %w", path, err)
		}
	}
	return o, nil
}

// mapped returns what 0 is mapped to.
func mapped(table string) (int, error) {
	for line := range strings.Lines(table) {
		var first, host, count int
		if _, err := fmt.Sscan(line, &first, &host, &count); err == nil && first == 0 && count > 0 {
			return host, nil
		}
	}
	return 0, fmt.Errorf("%w: the user namespace has no root", ErrInvalid)
}

// do runs f, which makes files, on the calling thread, which has to be locked and to end soon. A file system that belongs to
// a user namespace takes no files of somebody whom that does not know.
func (o owner) do(f func() error) error {
	if o == (owner{}) {
		return f()
	}
	if _, err := unix.SetfsgidRetGid(o.gid); err != nil {
		return fmt.Errorf("setfsgid %d: %w", o.gid, err)
	}
	if _, err := unix.SetfsuidRetUid(o.uid); err != nil {
		return fmt.Errorf("setfsuid %d: %w", o.uid, err)
	}
	return f()
}
