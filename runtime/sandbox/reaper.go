package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// reaperName is the reaper's name in ps.
const reaperName = "corsa-reaper"

// A reaper is the pid 1 that Options.Reaper puts in front of a container's program. The program becomes its only
// child of its own making. It forwards every signal but SIGCHLD, reaps every orphan and every sibling that the
// program is given by CLONE_PARENT, and exits with the program's exit code, or 128 plus the signal that ended it.
//
// A service needs it for two reasons: the first process of a pid namespace cannot be cloned with CLONE_PARENT, which
// is how instances are made; and the instances' parent must not be the service, which would see them die.
//
// It has to run in any image, so it is a static ELF of about 1 KiB without libc, made at run time from the machine
// code in reaper_amd64.s, in a memfd that the container's init inherits and executes through /proc/self/fd. Nothing
// is mounted into the container and nothing is left open in it.
type reaper struct {
	image *os.File
	fd    int // its number in the container's init
}

// newReaper makes lp execute a reaper that is still empty: load completes it once the container's file systems are
// there and the program can be looked up in them.
func newReaper(lp *libcontainer.Process) (*reaper, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(reaperName, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(reaperName, flags)
	}
	if errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("reaper: sysctl vm.memfd_noexec forbids executable memory files; set it to 0 or 1: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("reaper: memfd_create: %w", err)
	}
	r := &reaper{image: os.NewFile(uintptr(fd), reaperName), fd: 3 + len(lp.ExtraFiles)}
	// A copy: the caller's slice must not change.
	lp.ExtraFiles = append(append([]*os.File(nil), lp.ExtraFiles...), r.image)
	lp.Args = append([]string{"/proc/self/fd/" + strconv.Itoa(r.fd)}, lp.Args...)
	return r, nil
}

// load writes the image that executes program, a path in the container, and seals it for good.
func (r *reaper) load(program string) error {
	img, err := reaperImage(r.fd, program)
	if err != nil {
		return err
	}
	if _, err := r.image.WriteAt(img, 0); err != nil {
		return fmt.Errorf("reaper: write image: %w", err)
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(r.image.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("reaper: seal image: %w", err)
	}
	return nil
}

func (r *reaper) close() {
	_ = r.image.Close() // memory: nothing to lose
}
