package fork

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// ownFiles are a tree of a new instance's own and the overlays on it.
type ownFiles struct {
	files  tree
	mounts []int // not attached yet; the caller closes them
}

// pending is work on files that goes on beside a fork.
type pending[T any] struct {
	done chan struct{}
	got  T
	err  error
}

func begin[T any](needed bool, fn func() (T, error)) *pending[T] {
	w := &pending[T]{done: make(chan struct{})}
	if !needed {
		close(w.done)
		return w
	}
	go func() {
		defer close(w.done)
		w.got, w.err = fn()
	}()
	return w
}

// await returns what fn has returned.
func (w *pending[T]) await() (T, error) {
	<-w.done
	return w.got, w.err
}

// prepare begins to make what an instance of an image needs. After an error nothing is left of it.
func (p *privateFiles) prepare(image tree) *pending[ownFiles] {
	return begin(p != nil, func() (own ownFiles, err error) {
		if own.files, err = p.branch(image); err != nil {
			return ownFiles{}, err
		}
		if own.mounts, err = p.overlays(own.files); err != nil {
			return ownFiles{}, errors.Join(err, p.remove(own.files))
		}
		return own, nil
	})
}

// capture begins to copy the tree of an instance that does not run. After an error nothing is left of the copy.
func (p *privateFiles) capture(of tree) *pending[tree] {
	return begin(p != nil, func() (tree, error) { return p.freeze(of) })
}

// saved is where the contents of a tree's files without a name are.
func (p *privateFiles) saved(t tree) string {
	if p == nil {
		return ""
	}
	return filepath.Join(p.dir, t.Name, "unnamed")
}

// save adds to an image's tree what the process, which does not run, has open and without a name.
func (p *privateFiles) save(t tree, pid int, plan *plan) error {
	if p == nil || !slices.ContainsFunc(plan.FDs, func(f planFD) bool { return f.Saved != "" }) {
		return nil
	}
	if err := os.Mkdir(p.saved(t), 0o700); err != nil {
		return err
	}
	return plan.Save(pid, p.saved(t))
}

// unshare makes the child of a fork enter a mount namespace of its own before anything else.
func (p *privateFiles) unshare(first forkBatch) forkBatch {
	if p == nil {
		return first
	}
	return func(b *batch) {
		b.call(unix.SYS_UNSHARE, unix.CLONE_NEWNS)
		first(b)
	}
}

// runWith is run for a process that may have private directories, which it has as pid does: they share a root directory. It
// also says how else the process uses them.
func (c *capturer) runWith(files *privateFiles, pid int) (*plan, filesInUse, error) {
	var use filesInUse
	if files == nil {
		p, err := c.run()
		return p, use, err
	}
	view, err := files.view(pid)
	if err != nil {
		return nil, use, err
	}
	defer closeAll(view.Roots)
	c.private = view
	p, err := c.run()
	if err != nil {
		return nil, use, err
	}
	if use.cwd, err = workingDirectory(c.pid, view); err != nil {
		return nil, use, err
	}
	if err := noMounts(c.pid, slices.Concat(files.names, files.paths)); err != nil {
		return nil, use, err
	}
	use.maps, err = fileMappings(c.pid, view, p)
	return p, use, err
}

// filesInUse are uses of private files other than by descriptors.
type filesInUse struct {
	cwd  *fdplan.Place // the working directory, if that is in a private one
	maps []fileMapping
}

// noMounts refuses what the process has mounted in a private directory: an instance would not have it.
func noMounts(pid int, names []string) error {
	text, err := readProc(fmt.Sprintf("/proc/%d/mountinfo", pid), nil)
	if err != nil {
		return gone(pid, err)
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) < 5 {
			continue
		}
		at := unescape.Replace(string(f[4]))
		for _, name := range names {
			if strings.HasPrefix(at, name+"/") {
				return &engine.Refusal{PID: pid, Blockers: []engine.Blocker{{
					Object: "mount " + at, Reason: "it is in a private directory, and an instance's own directory would hide it",
					WayOut: "let the service unmount it before a checkpoint is taken, or mount it elsewhere",
				}}}
			}
		}
	}
	return nil
}

// workingDirectory is where the process is, if that is below a private directory.
func workingDirectory(pid int, view *fdplan.Private) (*fdplan.Place, error) {
	at := fmt.Sprintf("/proc/%d/cwd", pid)
	name, err := os.Readlink(at)
	if err != nil {
		return nil, gone(pid, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		return nil, gone(pid, err)
	}
	place, ok, err := view.Locate(name, &st)
	if errors.Is(err, fdplan.ErrUnnamed) {
		return nil, &engine.Refusal{PID: pid, Blockers: []engine.Blocker{{
			Object: "working directory " + name, Reason: "it was removed, so that an instance could not enter it",
			WayOut: "let the service change to another directory before it removes this one",
		}}}
	}
	if err != nil || !ok {
		return nil, err
	}
	return &place, nil
}

// enter makes a new instance, which has its descriptors and no threads yet, use its own files where the image has others.
func (in *instance) enter(ctx context.Context, m *image) error {
	if m.cwd != nil {
		b := in.a.batch()
		b.call(unix.SYS_CHDIR, b.putString(filepath.Join(in.s.files.paths[m.cwd.Dir], m.cwd.Path)))
		if _, err := in.a.exec(ctx, b); err != nil {
			return fmt.Errorf("working directory: %w", err)
		}
	}
	return in.mapFiles(ctx, m)
}
