package upper

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Measure adds up a tree that may be changing. A file that goes meanwhile counts or does not.
func Measure(dir string) (Usage, error) {
	var u Usage
	seen := map[inode]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		if path != dir {
			u.Files++
		}
		if id := (inode{st.Dev, st.Ino}); !seen[id] {
			seen[id] = true
			u.Bytes += st.Blocks * 512
		}
		return nil
	})
	return u, err
}
