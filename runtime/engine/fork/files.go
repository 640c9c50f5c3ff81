package fork

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
	"corsa.dev/corsa/runtime/engine/upper"
)

// privateFiles are the private directories of a service. In an instance each is an overlay over the directory as the
// adopted process has left it. What an instance has written, or had when an image was taken of it, is a tree: a directory
// in dir with an upper and a work directory of an overlay for each private directory. An image's tree is never mounted; an
// instance gets a copy of it. All methods may be called on nil, which is what a service without private directories has.
type privateFiles struct {
	dir   string
	paths []string // as the service sees them
	names []string // as /proc shows them
	devs  []uint64 // of the file systems that they are on
	ns    int      // the engine's mount namespace

	origins *origins // nil: a file that an instance has made gets a new inode number when it is restored
	trees   treeSet
	readyMu sync.Mutex
	ready   tree           // empty; see makeReady
	removed sync.WaitGroup // trees that are being removed
	freeing sync.Mutex     // what is wanted must not become more between a look and a removal
}

// adoptFiles prepares the private directories of a process that is to be adopted, and makes the tree of the base. What
// stands in the way is refused by name. The process is not touched.
func adoptFiles(t engine.Target) (*privateFiles, tree, error) {
	p, err := openFiles(t, t.PID)
	if err != nil || p == nil {
		return nil, tree{}, err
	}
	base, err := p.firstTree()
	if err == nil {
		// Without, the kernel makes overlays in which not everything can be written.
		err = unix.Setxattr(p.upper(base, 0), "trusted.overlay.corsa", nil, 0)
		err = errors.Join(err, unix.Removexattr(p.upper(base, 0), "trusted.overlay.corsa"))
	}
	if err == nil {
		p.know(base)
		p.learn(t)
		var mounts []int
		mounts, err = p.overlays(base)
		closeAll(mounts)
	}
	if err == nil {
		return p, base, nil
	}
	if cleanup := p.destroy(); cleanup != nil {
		return nil, tree{}, errors.Join(err, cleanup)
	}
	return nil, tree{}, &engine.Refusal{PID: t.PID, Blockers: []engine.Blocker{{
		Object: "private directories", Reason: fmt.Sprintf("no overlay can be made over them with what is written in %s: %v", t.Files, err),
		WayOut: "keep corsa's state (--root) on a file system that overlays can write to, such as ext4, xfs, btrfs or tmpfs",
	}}}
}

// learn finds out whether inode numbers can be kept.
func (p *privateFiles) learn(t engine.Target) {
	var err error
	if p.origins, err = learnOrigins(p.ns, p.dir); err != nil {
		t.Log.WithError(err).Debug("inode numbers of new private files are not kept")
	}
}

// openFiles takes hold of the private directories that pid, the adopted process, has.
func openFiles(t engine.Target, pid int) (*privateFiles, error) {
	if len(t.Private) == 0 {
		return nil, nil
	}
	if t.Files == "" {
		return nil, errors.New("private directories: there is no directory to keep files in")
	}
	p := &privateFiles{dir: t.Files, paths: t.Private, ns: -1}
	roots, err := p.roots(pid)
	if err != nil {
		return nil, err
	}
	defer closeAll(roots)
	for _, fd := range roots {
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, err
		}
		p.names, p.devs = append(p.names, name), append(p.devs, st.Dev)
	}
	if err := os.Mkdir(filepath.Join(p.dir, "none"), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if p.ns, err = openLowers(pid, p.paths, p.dir); err != nil {
		return nil, err
	}
	return p, nil
}

// roots opens the private directories as a process sees them. The caller closes them.
func (p *privateFiles) roots(pid int) ([]int, error) {
	if p == nil {
		return nil, nil
	}
	root, err := rootOf(pid)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	var fds []int
	for _, path := range p.paths {
		fd, err := openIn(root, path)
		if err != nil {
			closeAll(fds)
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// view is what a capture of the process' descriptors has to know. The caller closes its Roots.
func (p *privateFiles) view(pid int) (*fdplan.Private, error) {
	if p == nil {
		return nil, nil
	}
	roots, err := p.roots(pid)
	return &fdplan.Private{Names: p.names, Roots: roots}, err
}

// overlays mounts the private directories with what is in the tree, attached nowhere. The tree must not be mounted a second
// time.
func (p *privateFiles) overlays(t tree) ([]int, error) {
	if p == nil {
		return nil, nil
	}
	return overlays(p.ns, p.dir, t.Name, len(p.paths))
}

// attach puts the mounts in the place of the directories that the process sees.
func (p *privateFiles) attach(pid int, mounts []int, instead bool) error {
	if p == nil {
		return nil
	}
	return attach(pid, mounts, p.paths, instead)
}

// measure adds up a tree that is in use.
func (p *privateFiles) measure(t tree) (upper.Usage, error) {
	var sum upper.Usage
	if p == nil {
		return sum, nil
	}
	for i := range p.paths {
		u, err := upper.Measure(p.upper(t, i))
		if err != nil {
			return sum, err
		}
		sum.Files += u.Files
		sum.Bytes += u.Bytes
	}
	return sum, nil
}

// destroy frees everything. The directory itself stays.
func (p *privateFiles) destroy() error {
	if p == nil {
		return nil
	}
	p.close()
	p.removed.Wait()
	entries, err := os.ReadDir(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(p.dir, e.Name())))
	}
	return err
}

// close lets go of the engine's namespace.
func (p *privateFiles) close() {
	if p != nil && p.ns >= 0 {
		unix.Close(p.ns)
		p.ns = -1
	}
}
