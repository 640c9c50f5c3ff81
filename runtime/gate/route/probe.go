package route

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Probe finds out whether Open can succeed, without changing anything: it has the kernel verify the program. The text is for
// people. ErrUnsupported proves that it cannot, any other error that it is not known.
func Probe() (string, error) {
	cgroup := cgroupRoot()
	if cgroup == "" {
		return "", fmt.Errorf("%w: no cgroup2 file system is mounted; way out: mount one", ErrUnsupported)
	}
	mount, err := bpffs(false)
	if err != nil {
		return "", err
	}
	where := "a bpffs on " + mount
	if mount == "" {
		where = "a bpffs that is yet to be mounted on " + usualBPFFS
		if _, err := os.Stat(usualBPFFS); err != nil {
			return "", fmt.Errorf("%w: %w, and no bpffs is mounted; way out: mount one", ErrUnsupported, err)
		}
	}
	objects, err := load()
	if err != nil {
		err = unsupported("load the program", err)
		if errors.Is(err, unix.ENOMEM) {
			return "", fmt.Errorf("%w; way out: more memory for the cgroup", err)
		}
		return "", err
	}
	return fmt.Sprintf("for processes below %s, pinned in %s", cgroup, where), objects.Close()
}
