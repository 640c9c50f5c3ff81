package service

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/spec"
)

// recordVersion is raised when an older monitor could not read a newer one's record.
const recordVersion = 1

// layout names the files of the service id. All but the bundle are in the sandbox's own directory and go with it.
type layout struct{ root, id string }

func (l layout) dir() string     { return filepath.Join(l.root, l.id) }
func (l layout) record() string  { return filepath.Join(l.dir(), "service.json") }
func (l layout) journal() string { return filepath.Join(l.dir(), "journal") }
func (l layout) control() string { return filepath.Join(l.dir(), "control.sock") }
func (l layout) lock() string    { return filepath.Join(l.dir(), "monitor.lock") }
func (l layout) supervisorLock() string {
	return filepath.Join(l.dir(), "supervisor.lock")
}
func (l layout) log() string     { return filepath.Join(l.dir(), "monitor.log") }
func (l layout) output() string  { return filepath.Join(l.dir(), "service.log") }
func (l layout) sockets() string { return filepath.Join(l.dir(), "sockets") }

// files is where the engine keeps what instances and checkpoints have written to private directories.
func (l layout) files() string { return filepath.Join(l.dir(), "files") }

// cgroupName tells services apart that have one id under different roots.
func (l layout) cgroupName() string {
	sum := sha256.Sum256([]byte(l.root))
	return l.id + "-" + hex.EncodeToString(sum[:4])
}

// bundle is where `corsa serve` keeps the bundle that it generates. libcontainer does not take a state directory
// that exists, so it cannot lie in there; a leading dot keeps it apart from containers.
func (l layout) bundle() string { return filepath.Join(l.root, ".bundles", l.id) }

// record is what a monitor leaves for its successor. It exists while the service is virtualised.
type record struct {
	Version   int              `json:"version"`
	Service   spec.Service     `json:"service"`
	PID       int              `json:"pid"` // of the adopted process
	Listeners []engine.Address `json:"listeners"`
	Engine    string           `json:"engine"`
	State     json.RawMessage  `json:"state"` // for engine.Recover
	Created   time.Time        `json:"created"`
	// Output says that the service's standard output is a pipe of ours.
	Output bool `json:"output"`
	// Broker is the state of the broker, if there is one.
	Broker json.RawMessage `json:"broker,omitempty"`
}

func (l layout) load() (*record, error) {
	data, err := os.ReadFile(l.record())
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(l.dir()); err == nil {
			return nil, fmt.Errorf("container %q under %s has ended, or declares no service: %w", l.id, l.root, ErrNotServed)
		}
		return nil, fmt.Errorf("%q under %s: %w", l.id, l.root, ErrNotServed)
	}
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w; the service cannot be taken over: delete it with --force", l.record(), err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("%s: version %d, but this corsa reads version %d; use the corsa that wrote it", l.record(), r.Version, recordVersion)
	}
	return &r, nil
}

// save replaces the record in one step and returns when it is on disk.
func (l layout) save(r *record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeDurably(l.record(), data)
}

func writeDurably(path string, data []byte) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// A lock is held by the one monitor of a service, or by whoever ends it. It dies with its holder's process.
type lock struct{ f *os.File }

// tryLock takes the lock. errLocked if a monitor, or another command, has it.
func (l layout) tryLock() (*lock, error) {
	f, err := os.OpenFile(l.lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%q under %s: %w", l.id, l.root, ErrNotServed)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("service %q: %w", l.id, errLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", l.lock(), err)
	}
	return &lock{f: f}, nil
}

// sign notes in the lock that this process is the monitor.
func (k *lock) sign() error {
	if err := k.f.Truncate(0); err != nil {
		return err
	}
	_, err := k.f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return err
}

func (k *lock) release() error { return k.f.Close() }

// supervise takes a share of the lock that says that there is a supervisor. It lasts until the file is closed.
func (l layout) supervise() (*os.File, error) {
	f, err := os.OpenFile(l.supervisorLock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", l.supervisorLock(), err), f.Close())
	}
	return f, nil
}

// awaitNoSupervisor waits until all supervisors have ended, which they do once there is no record, or until ctx is done.
func (l layout) awaitNoSupervisor(ctx context.Context) error {
	f, err := os.Open(l.supervisorLock())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("a supervisor of %q does not end: %w", l.id, context.Cause(ctx))
		}
	}
}

// holder is the pid of the last monitor that had the lock, 0 if there was none.
func (l layout) holder() int {
	data, err := os.ReadFile(l.lock())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return pid
}
