package fork

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
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

// tree is the state of a service's private files in an image or an instance. The zero value is that of a service without.
type tree struct {
	Name string `json:"name"` // of the directory in privateFiles.dir
	upper.Usage
	Kept []uint64 `json:"kept,omitempty"` // inodes of other trees that files of this one have as their origin
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

// firstTree makes a tree in which nothing is written yet.
func (p *privateFiles) firstTree() (tree, error) {
	t, err := p.emptyTree(true)
	if err != nil {
		return tree{}, err
	}
	err = onThread(func() error {
		if err := unix.Setns(p.ns, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the engine's mount namespace: %w", err)
		}
		for i := range p.paths { // an overlay's root has the attributes of its upper directory
			lower := lowerDir(p.dir, i)
			if err := sameAttributes(lower, p.upper(t, i)); err != nil {
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

// sameAttributes gives directory to what from has.
func sameAttributes(from, to string) error {
	src, err := unix.Open(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := unix.Open(to, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	return upper.Attributes(src, dst, &st)
}

func (p *privateFiles) upper(t tree, i int) string {
	return filepath.Join(p.dir, t.Name, fmt.Sprint(i), "upper")
}

// emptyTree makes the directories of a tree: of one that is to be mounted, or of an image's.
func (p *privateFiles) emptyTree(mounted bool) (tree, error) {
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
		if err == nil && mounted {
			err = os.Mkdir(filepath.Join(at, "work"), 0o700)
		}
		if err != nil {
			return tree{}, errors.Join(err, p.remove(t))
		}
	}
	return t, nil
}

// branch makes a tree for an instance of the image whose tree is t.
func (p *privateFiles) branch(t tree) (tree, error) {
	out, err := p.emptyTree(true)
	if err != nil {
		return tree{}, fmt.Errorf("private files: %w", err)
	}
	return p.copy(t, out, false)
}

// freeze makes a tree of what is in that of an instance, which does not run. Files that the instance has made are the origin
// of their copies.
func (p *privateFiles) freeze(t tree) (tree, error) {
	out, err := p.takeReady()
	if err != nil {
		return tree{}, fmt.Errorf("private files: %w", err)
	}
	return p.copy(t, out, true)
}

// copy fills the tree out, which is empty, with what is in t, to which nobody writes meanwhile.
func (p *privateFiles) copy(t, out tree, original bool) (tree, error) {
	out.Kept = append(out.Kept, t.Kept...)
	var options []upper.Option
	if original && p.origins != nil {
		options = append(options, upper.Marked(func(_ string, st *unix.Stat_t, from, to int) error {
			marked, err := p.origins.mark(st, from, to)
			if marked {
				out.Kept = append(out.Kept, st.Ino)
			}
			return err
		}))
	}
	for i := range p.paths {
		u, err := upper.Copy(p.upper(t, i), p.upper(out, i), options...)
		if err != nil {
			return tree{}, errors.Join(fmt.Errorf("private directory %s: %w", p.paths[i], err), p.remove(out))
		}
		out.Files += u.Files
		out.Bytes += u.Bytes
	}
	p.trees.add(out)
	return out, nil
}

// makeReady makes the next image's tree ahead of time: an instance stands still while one is filled.
func (p *privateFiles) makeReady() error {
	if p == nil {
		return nil
	}
	p.readyMu.Lock()
	defer p.readyMu.Unlock()
	if p.ready.Name != "" {
		return nil
	}
	t, err := p.emptyTree(false)
	if err == nil {
		p.trees.add(t)
		p.ready = t
	}
	return err
}

func (p *privateFiles) takeReady() (tree, error) {
	p.readyMu.Lock()
	t := p.ready
	p.ready = tree{}
	p.readyMu.Unlock()
	if t.Name != "" {
		return t, nil
	}
	return p.emptyTree(false)
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
	p.trees.drop(t)
	return p.free(t)
}

// discard is remove, beside the caller, who would have to wait for the file system. An engine that dies meanwhile leaves the
// rest to the sweep of the next one.
func (p *privateFiles) discard(t tree, log *logrus.Entry) {
	if p == nil || t.Name == "" {
		return
	}
	p.trees.drop(t)
	p.removed.Go(func() {
		if err := p.free(t); err != nil {
			log.WithError(err).WithField("tree", t.Name).Warn("cannot free private files; the next monitor will try again")
		}
	})
}

func (p *privateFiles) free(t tree) error {
	p.freeing.Lock()
	defer p.freeing.Unlock()
	wanted := p.trees.kept()
	if err := p.keep(t, wanted); err != nil {
		return err
	}
	err := os.RemoveAll(filepath.Join(p.dir, t.Name))
	if len(t.Kept) > 0 {
		err = errors.Join(err, p.letGo(wanted))
	}
	return err
}

// know takes note of a tree that an earlier engine has made.
func (p *privateFiles) know(t tree) {
	if p != nil && t.Name != "" {
		p.trees.add(t)
	}
}

// sweep frees all trees that are not known.
func (p *privateFiles) sweep() error {
	if p == nil {
		return nil
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, "tree-"):
			if !p.trees.has(name) {
				err = errors.Join(err, p.free(tree{Name: name}))
			}
		case strings.HasPrefix(name, "probe-"):
			err = errors.Join(err, os.RemoveAll(filepath.Join(p.dir, name)))
		}
	}
	p.freeing.Lock()
	defer p.freeing.Unlock()
	return errors.Join(err, p.letGo(p.trees.kept()))
}

// treeSet are the trees that there are.
type treeSet struct {
	mu  sync.Mutex
	all map[string][]uint64 // what each of them wants kept, by name
}

func (s *treeSet) add(t tree) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string][]uint64{}
	}
	s.all[t.Name] = t.Kept
}

func (s *treeSet) drop(t tree) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, t.Name)
}

func (s *treeSet) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.all[name]
	return ok
}

// kept are the inodes that any tree has as an origin.
func (s *treeSet) kept() map[uint64]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[uint64]bool{}
	for _, list := range s.all {
		for _, ino := range list {
			out[ino] = true
		}
	}
	return out
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
