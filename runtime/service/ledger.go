package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

const (
	// compactAbove is the size in bytes from which a journal is replaced by a snapshot, once it has also grown to
	// compactFactor times what the last snapshot took.
	compactAbove  = 1 << 20
	compactFactor = 4
)

// ledger is the model of the service, kept in step with its journal: when a method returns without an error, what it
// changed is on disk. Its methods may be called from any goroutine.
type ledger struct {
	path     string
	stopped  bool // policy on-crash=stop
	inMemory bool // no disk has to be waited for
	fleeting bool // apps end with the monitor

	mu    sync.Mutex
	model *instance.Model
	file  *os.File
	size  int64
	floor int64 // size of the snapshot that the file begins with
	// behind says that the file lacks something that the model has, since a write failed. It is written anew first.
	behind bool
	late   []instance.Record // in the model, and to be written before all others
}

func limits(svc *spec.Service) instance.Limits {
	return instance.Limits{Count: svc.History, Bytes: svc.HistoryBytes, CrashLoop: instance.DefaultCrashLoop}
}

// createLedger begins the journal of a service just adopted.
func createLedger(path string, svc *spec.Service, seed string, base json.RawMessage) (*ledger, error) {
	now := time.Now()
	model, first := instance.New(seed+now.Format(time.RFC3339Nano), now, limits(svc))
	second, err := model.SetBase(now, base, nil)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	l := &ledger{path: path, model: model, file: f, inMemory: inMemory(f), fleeting: fleeting(svc), stopped: svc.OnCrash.Mode == spec.CrashStop}
	if err := errors.Join(l.write(first, second), syncDir(filepath.Dir(path))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// openLedger replays the journal of a monitor that died. A last line that it was writing then, and so never
// acknowledged, is cut off.
func openLedger(path string, svc *spec.Service) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	model, done, err := instance.Replay(f, limits(svc))
	if err == nil && done.Torn > 0 {
		err = f.Truncate(done.Size)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &ledger{
		path: path, model: model, file: f, inMemory: inMemory(f), fleeting: fleeting(svc), size: done.Size, stopped: svc.OnCrash.Mode == spec.CrashStop,
	}, nil
}

// inMemory reports whether the file is on a file system without a disk, as below /run.
func inMemory(f *os.File) bool {
	var s unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &s) == nil && (s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC)
}

// fleeting reports whether apps are connections: those of a monitor that has died are gone with it, so that nothing is lost if
// what became of them lately is not in the journal. An instance that is not is ended by the next monitor.
func fleeting(svc *spec.Service) bool { return svc.AppKey == spec.AppKeyConnection }

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writeLate(); err != nil {
		return errors.Join(err, l.file.Close())
	}
	if err := l.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}

// maxLate is how many records of fleeting apps may wait for being written.
const maxLate = 256

// settle writes what has been committed late.
func (l *ledger) settle() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writeLate()
}

func (l *ledger) writeLate() error {
	if len(l.late) == 0 {
		return nil
	}
	return l.write()
}

// write appends records so that they survive the monitor, behind those that are late. l.mu is held.
func (l *ledger) write(records ...instance.Record) error {
	records, l.late = append(l.late, records...), nil
	if l.behind || l.size > compactAbove && l.size > compactFactor*l.floor {
		err := l.rewrite() // the records are in the model already
		l.behind = err != nil
		return err
	}
	count := &counting{w: l.file}
	// Not synced to the disk: what is written survives every death of the monitor, and a machine that loses power
	// loses the instances and checkpoints themselves, which are processes. A sync was most of a checkpoint's time.
	err := instance.WriteRecords(count, records...)
	l.size += count.n
	l.behind = err != nil
	return err
}

type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// rewrite replaces the journal by a snapshot of the model. l.mu is held.
func (l *ledger) rewrite() error {
	snapshot, err := l.model.Snapshot()
	if err != nil {
		return err
	}
	line, err := instance.AppendRecord(nil, snapshot)
	if err != nil {
		return err
	}
	if err := writeDurably(l.path, line); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	_ = l.file.Close() // it has no name any more
	l.file, l.size, l.floor = f, int64(len(line)), int64(len(line))
	return nil
}

// commit writes the records that change has applied to the model; if that fails, undo takes them back.
func (l *ledger) commit(change func(now time.Time) ([]instance.Record, error), undo func(now time.Time)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	records, err := change(time.Now())
	if err != nil {
		return err
	}
	if err = l.write(records...); err != nil && undo != nil {
		undo(time.Now())
	}
	return err
}

// commitLate is commit for what may be lost with the monitor if apps are fleeting: settle writes it.
func (l *ledger) commitLate(change func(now time.Time) ([]instance.Record, error), undo func(now time.Time)) error {
	if !l.fleeting {
		return l.commit(change, undo)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	records, err := change(time.Now())
	if err != nil {
		return err
	}
	l.late = append(l.late, records...)
	if len(l.late) > maxLate {
		err = l.write()
		if err != nil && undo != nil {
			undo(time.Now())
		}
	}
	return err
}

func one(r instance.Record, err error) ([]instance.Record, error) { return []instance.Record{r}, err }

// branched records app's first instance, or its next one after the last was gone.
func (l *ledger) branched(app instance.App, from instance.ID, handle json.RawMessage) error {
	return l.branchedBy(l.commit, app, from, handle)
}

// committer is commit or commitLate.
type committer func(change func(now time.Time) ([]instance.Record, error), undo func(now time.Time)) error

func (l *ledger) branchedBy(commit committer, app instance.App, from instance.ID, handle json.RawMessage) error {
	return commit(func(now time.Time) ([]instance.Record, error) {
		return one(l.model.Branch(now, app, from, handle))
	}, func(now time.Time) { _, _ = l.model.Lost(now, app, "it could not be recorded") })
}

// restored records that an instance in state to took the place of app's former one because somebody asked for it. kept says
// that the former one lives: if this cannot be recorded, it is still the app's.
func (l *ledger) restored(app instance.App, to instance.ID, handle json.RawMessage, kept bool) error {
	var former instance.Instance
	var head instance.ID
	return l.commit(func(now time.Time) ([]instance.Record, error) {
		was, err := l.model.App(app)
		if err != nil {
			return nil, err
		}
		former, head = was, instance.Base
		if c, err := l.model.Head(app); err == nil {
			head = c.ID
		}
		return one(l.model.Restore(now, app, to, handle, manual, true))
	}, func(now time.Time) {
		const why = "it could not be recorded"
		if kept && former.State.Live() {
			_, _ = l.model.Restore(now, app, head, former.Handle, why, true)
		} else {
			_, _ = l.model.Lost(now, app, why)
		}
	})
}

// lostInstance records that app's instance is gone without having crashed.
func (l *ledger) lostInstance(app instance.App, why string) error {
	return l.commit(func(now time.Time) ([]instance.Record, error) { return one(l.model.Lost(now, app, why)) }, nil)
}

// lostCheckpoint strikes a checkpoint off whose process has died.
func (l *ledger) lostCheckpoint(app instance.App, id instance.ID) error {
	return l.commit(func(now time.Time) ([]instance.Record, error) {
		_, r, err := l.model.Discard(now, app, id, "lost")
		return one(r, err)
	}, nil)
}

// checkpointed records a checkpoint and returns its id, and those that were discarded to keep to the limits. refreshed
// is the present handle of the instance: it may have other threads than when it was branched.
func (l *ledger) checkpointed(app instance.App, c instance.Captured, tag string, refreshed json.RawMessage) (id instance.ID, surplus []instance.ID, err error) {
	err = l.commit(func(now time.Time) ([]instance.Record, error) {
		taken, r, err := l.model.Checkpoint(now, app, c)
		if err != nil {
			return nil, err
		}
		id = taken.ID
		records := []instance.Record{r}
		if tag != "" {
			if r, err = l.model.Tag(now, app, id, tag, true); err != nil {
				return records, err
			}
			records = append(records, r)
		}
		if r, err = l.model.SetHandle(now, app, refreshed); err != nil {
			return records, err
		}
		discarded, more, err := l.model.Trim(now, app)
		for _, d := range discarded {
			surplus = append(surplus, d.ID)
		}
		return append(append(records, r), more...), err
	}, func(now time.Time) { _, _, _ = l.model.Discard(now, app, id, "it could not be recorded") })
	return id, surplus, err
}

// crashed records that app's instance died by itself. If that makes a crash loop, the app is quarantined.
func (l *ledger) crashed(app instance.App, exit engine.Exit, transactions uint64) error {
	return l.commit(func(now time.Time) ([]instance.Record, error) {
		return l.model.Crash(now, app, crashOf(now, exit, transactions))
	}, nil)
}

func crashOf(now time.Time, exit engine.Exit, transactions uint64) instance.Crash {
	return instance.Crash{Time: now, Signal: exit.Signal, Code: max(exit.Code, 0), Transactions: transactions}
}

// measured notes sizes of a checkpoint that have become known: how many pages differ from its parent's, and what is not
// shared with anything else, in bytes; nil leaves one as it is. It is not worth a line in the journal.
func (l *ledger) measured(app instance.App, id instance.ID, dirtyPages, unique *int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.model.Measure(time.Now(), app, id, dirtyPages, unique) // it has been discarded meanwhile
}

// dirtyPages is what is known of a checkpoint; nil if nothing.
func (l *ledger) dirtyPages(app instance.App, id instance.ID) *int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, err := l.model.Get(app, id)
	if err != nil {
		return nil // it has been discarded meanwhile
	}
	return c.DirtyPages
}

// trim discards what is above the limits, now that sizes are known, and returns it.
func (l *ledger) trim(app instance.App) (surplus []instance.ID, err error) {
	err = l.commit(func(now time.Time) ([]instance.Record, error) {
		discarded, records, err := l.model.Trim(now, app)
		for _, d := range discarded {
			surplus = append(surplus, d.ID)
		}
		return records, err
	}, nil)
	return surplus, err
}

// head is the state to which app is brought back: the checkpoint that its instance descends from. base for a new app.
func (l *ledger) head(app instance.App) instance.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, err := l.model.Head(app)
	if err != nil {
		return instance.Base
	}
	return c.ID
}

func (l *ledger) lookup(app instance.App, revision string) (instance.ID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, err := l.model.Lookup(app, revision)
	return c.ID, err
}

func (l *ledger) history(app instance.App) (instance.History, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.model.History(app)
}

func (l *ledger) app(app instance.App) (instance.Instance, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.model.App(app)
}

func (l *ledger) apps() []instance.Instance {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.model.Apps()
}

// refusal is why app is not served, nil if it is.
func (l *ledger) refusal(app instance.App) error {
	a, err := l.app(app)
	if err != nil {
		return nil // a new one
	}
	return l.refuses(&a)
}

func (l *ledger) refuses(a *instance.Instance) error {
	switch {
	case a.State == instance.Quarantined:
		return fmt.Errorf("app %s: %w: %s; restore it to serve it again", a.App, gate.ErrQuarantined, a.Reason)
	case l.isStopped(a):
		return fmt.Errorf("app %s: %w; restore it to serve it again", a.App, gate.ErrStopped)
	}
	return nil
}

// isStopped tells whether policy keeps a from a new instance: its last one crashed.
func (l *ledger) isStopped(a *instance.Instance) bool {
	return l.stopped && a.State == instance.Gone && a.LastCrash != nil && !a.LastCrash.Time.Before(a.Born)
}
