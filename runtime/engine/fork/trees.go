package fork

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine/upper"
)

// tree is the state of a service's private files in an image or an instance. The zero value is that of a service without.
type tree struct {
	Name string `json:"name"` // of the directory in privateFiles.dir
	upper.Usage
	Kept []uint64 `json:"kept,omitempty"` // inodes of other trees that files of this one have as their origin
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
