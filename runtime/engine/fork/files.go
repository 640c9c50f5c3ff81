package fork

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
	"corsa.dev/corsa/runtime/engine/fork/upper"
)

// privateFiles are the private directories of a service. In an instance each is an overlay over the directory as the
// adopted process has left it. What an instance has written, or had when an image was taken of it, is a tree: a directory
// in dir with an upper and a work directory of an overlay for each private directory. An image's tree is never mounted; an
// instance gets a copy of it. All methods may be called on nil, which is what a service without private directories has.
type privateFiles struct {
	dir   string
	paths []string // as the service sees them
	names []string // as /proc shows them
	ns    int      // the engine's mount namespace
}

// tree is the state of a service's private files in an image or an instance. The zero value is that of a service without.
type tree struct {
	Name string `json:"name"` // of the directory in privateFiles.dir
	upper.Usage
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
		p.names = append(p.names, name)
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

// firstTree makes a tree in which nothing is written yet.
func (p *privateFiles) firstTree() (tree, error) {
	t, err := p.emptyTree()
	if err != nil {
		return tree{}, err
	}
	err = onThread(func() error {
		if err := unix.Setns(p.ns, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the engine's mount namespace: %w", err)
		}
		for i := range p.paths { // an overlay's root has the attributes of its upper directory
			lower := lowerDir(p.dir, i)
			var st unix.Stat_t
			if err := unix.Stat(lower, &st); err != nil {
				return err
			}
			if err := upper.Attributes(lower, p.upper(t, i), &st); err != nil {
				return fmt.Errorf("attributes of the private directory %s: %w", p.paths[i], err)
			}
		}
		return nil
	})
	if err != nil {
		return tree{}, errors.Join(err, p.remove(t))
	}
	return t, nil
}

func (p *privateFiles) upper(t tree, i int) string {
	return filepath.Join(p.dir, t.Name, fmt.Sprint(i), "upper")
}

// emptyTree makes the directories of a tree.
func (p *privateFiles) emptyTree() (tree, error) {
	dir, err := os.MkdirTemp(p.dir, "tree-")
	if err != nil {
		return tree{}, err
	}
	t := tree{Name: filepath.Base(dir)}
	for i := range p.paths {
		at := filepath.Join(dir, fmt.Sprint(i))
		err := os.Mkdir(at, 0o700)
		if err == nil {
			err = os.Mkdir(p.upper(t, i), 0o700)
		}
		if err == nil {
			err = os.Mkdir(filepath.Join(at, "work"), 0o700)
		}
		if err != nil {
			return tree{}, errors.Join(err, p.remove(t))
		}
	}
	return t, nil
}

// copy makes another tree with what is in t, to which nobody writes meanwhile.
func (p *privateFiles) copy(t tree) (tree, error) {
	if p == nil {
		return tree{}, nil
	}
	out, err := p.emptyTree()
	if err != nil {
		return tree{}, fmt.Errorf("private files: %w", err)
	}
	for i := range p.paths {
		u, err := upper.Copy(p.upper(t, i), p.upper(out, i))
		if err != nil {
			return tree{}, errors.Join(fmt.Errorf("private directory %s: %w", p.paths[i], err), p.remove(out))
		}
		out.Files += u.Files
		out.Bytes += u.Bytes
	}
	return out, nil
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

// remove frees a tree, which may still be mounted by processes that do not run any more.
func (p *privateFiles) remove(t tree) error {
	if p == nil || t.Name == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(p.dir, t.Name))
}

// sweep frees all trees but those known.
func (p *privateFiles) sweep(known []string) error {
	if p == nil {
		return nil
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	var errs error
	for _, e := range entries {
		if e.Name() != "lower" && !slices.Contains(known, e.Name()) {
			errs = errors.Join(errs, os.RemoveAll(filepath.Join(p.dir, e.Name())))
		}
	}
	return errs
}

// destroy frees everything. The directory itself stays.
func (p *privateFiles) destroy() error {
	if p == nil {
		return nil
	}
	p.close()
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
