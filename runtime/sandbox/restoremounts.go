package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/osthread"
)

// onPrivateMounts calls fn on a thread with a mount namespace of its own, which what fn starts inherits. Mounts made there
// end with the last process in it, whoever is killed, and the host never sees them.
func onPrivateMounts(fn func() error) error {
	return osthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("private mount namespace: %w", err)
		}
		// Slave, not private: what is unmounted on the host must not be kept busy here.
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("private mount namespace: %w", err)
		}
		return fn()
	})
}

// mountRoot makes the container's root a mount point, which CRIU wants, in the calling thread's mount namespace.
func (r *restoration) mountRoot() error {
	if err := r.makeMountPoints(); err != nil {
		return err
	}
	if err := os.Mkdir(r.mounted, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(r.cfg.Rootfs, r.mounted, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount root %s: %w", r.cfg.Rootfs, err)
	}
	return nil
}

// makeMountPoints makes the places that the bundle mounts something on, as creating a container does. They may lie in
// what another bind mount shows, which is therefore mounted meanwhile.
func (r *restoration) makeMountPoints() error {
	if r.cfg.Readonlyfs {
		// CRIU mounts the old root there for a moment; where there is none it wants to make a directory.
		if err := r.makeMountPoint(filepath.Join(r.cfg.Rootfs, "tmp"), &configs.Mount{}); err != nil {
			return fmt.Errorf("make /tmp in the read-only root, which CRIU needs: %w", err)
		}
	}
	for _, m := range r.cfg.Mounts {
		// CRIU restores the content of a tmpfs, and the cgroups' is one.
		if m.Device == "cgroup" || onTmpfs(m.Destination, r.cfg.Mounts) {
			continue
		}
		place, err := securejoin.SecureJoin(r.cfg.Rootfs, strings.TrimPrefix(m.Destination, r.cfg.Rootfs))
		if err != nil {
			return fmt.Errorf("mount point %s: %w", m.Destination, err)
		}
		if err := r.makeMountPoint(place, m); err != nil {
			return fmt.Errorf("mount point %s: %w", m.Destination, err)
		}
		if m.Device != "bind" {
			continue
		}
		if err := unix.Mount(m.Source, place, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.Source, m.Destination, err)
		}
		defer func() { _ = unix.Unmount(place, unix.MNT_DETACH) }() // the namespace is ours alone
	}
	return nil
}

// makeMountPoint makes place, and what is missing above it, and remembers that.
func (r *restoration) makeMountPoint(place string, m *configs.Mount) error {
	if _, err := os.Lstat(place); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if parent := filepath.Dir(place); parent != r.cfg.Rootfs {
		if err := r.makeMountPoint(parent, &configs.Mount{}); err != nil {
			return err
		}
	}
	isFile := false
	if m.Device == "bind" {
		fi, err := os.Stat(m.Source)
		if err != nil {
			return err
		}
		isFile = !fi.IsDir()
	}
	parent, err := os.OpenFile(filepath.Dir(place), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	point := mountPoint{parent, filepath.Base(place), isFile}
	if err := point.make(); err != nil {
		return errors.Join(err, parent.Close())
	}
	r.made = append(r.made, point)
	return nil
}

// mountPoint is one that a restore has made. Its path may mean something else once what is mounted above it has gone.
type mountPoint struct {
	parent *os.File
	name   string
	isFile bool
}

func (p mountPoint) make() error {
	dir := int(p.parent.Fd())
	if !p.isFile {
		return unix.Mkdirat(dir, p.name, 0o755)
	}
	fd, err := unix.Openat(dir, p.name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// remove takes it back, unless somebody has put something there.
func (p mountPoint) remove() error {
	flags := unix.AT_REMOVEDIR
	if p.isFile {
		flags = 0
	}
	err := unix.Unlinkat(int(p.parent.Fd()), p.name, flags)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, p.parent.Close())
}

func onTmpfs(path string, mounts []*configs.Mount) bool {
	for _, m := range mounts {
		if m.Device == "tmpfs" && strings.HasPrefix(path, m.Destination+"/") {
			return true
		}
	}
	return false
}

// endRestore ends the processes of a restore that was not completed, CRIU among them.
func (s *Sandbox) endRestore() error {
	state, err := s.container.State()
	if err != nil {
		return err
	}
	m, err := manager.NewWithPaths(state.Config.Cgroups, state.CgroupPaths)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return endAll(m)
}

// endAll kills every process in the cgroup and waits until there is none.
func endAll(m cgroups.Manager) error {
	for end := time.Now().Add(killTimeout); ; time.Sleep(2 * time.Millisecond) {
		pids, err := m.GetAllPids()
		if errors.Is(err, os.ErrNotExist) || err == nil && len(pids) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("end processes: %w", err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("end processes %v: they do not die", pids)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("end process %d: %w", pid, err)
			}
		}
	}
}
