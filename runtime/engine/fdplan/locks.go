package fdplan

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Lock is a lock that is held on a file.
type Lock struct {
	Kind  LockKind `json:"kind"`
	Write bool     `json:"write,omitempty"`
	Start int64    `json:"start,omitempty"` // in bytes; not for LockFlock
	Len   int64    `json:"len,omitempty"`   // 0: up to the end of the file, however long it gets
}

// LockKind says how a lock was taken, as fdinfo calls it.
type LockKind string

// The kinds. Locks of a process belong to its descriptor table, and each descriptor of the file shows all of them; the other
// two belong to an open file description.
const (
	LockProcess LockKind = "POSIX"
	LockOpen    LockKind = "OFDLCK"
	LockFlock   LockKind = "FLOCK"
)

// Flock is the lock as fcntl(2) takes it.
func (l *Lock) Flock() unix.Flock_t {
	f := unix.Flock_t{Type: unix.F_RDLCK, Start: l.Start, Len: l.Len}
	if l.Write {
		f.Type = unix.F_WRLCK
	}
	return f
}

// parseLocks lists the locks in fdinfo. The error names one that could not be taken again.
func parseLocks(info []byte) ([]Lock, error) {
	var out []Lock
	for line := range bytes.Lines(info) {
		text, ok := bytes.CutPrefix(line, []byte("lock:"))
		if !ok {
			continue
		}
		l, err := parseLock(string(text))
		if err != nil {
			return nil, fmt.Errorf("%q: %w", bytes.TrimSpace(text), err)
		}
		out = append(out, l)
	}
	return out, nil
}

// parseLock parses "1: POSIX  ADVISORY  WRITE 1234 fe:00:77 0 EOF".
func parseLock(text string) (l Lock, err error) {
	f := strings.Fields(text)
	if len(f) < 8 {
		return l, fmt.Errorf("%d fields", len(f))
	}
	switch l.Kind = LockKind(f[1]); l.Kind {
	case LockProcess, LockOpen, LockFlock:
	default:
		return l, fmt.Errorf("a lock of kind %s", f[1])
	}
	switch f[3] {
	case "READ":
	case "WRITE":
		l.Write = true
	default:
		return l, fmt.Errorf("a lock for %s", f[3])
	}
	if l.Start, err = strconv.ParseInt(f[6], 10, 64); err != nil || f[7] == "EOF" {
		return l, err
	}
	end, err := strconv.ParseInt(f[7], 10, 64)
	l.Len = end - l.Start + 1
	return l, err
}

// lock takes the locks that belong to the open file description.
func (m *Maker) lock(p *FD, fd int) error {
	for i := range p.Locks {
		var err error
		switch l := &p.Locks[i]; l.Kind {
		case LockFlock:
			how := unix.LOCK_SH
			if l.Write {
				how = unix.LOCK_EX
			}
			err = unix.Flock(fd, how|unix.LOCK_NB)
		case LockOpen:
			f := l.Flock()
			err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &f)
		}
		if err != nil {
			return fmt.Errorf("%s lock: %w", p.Locks[i].Kind, err)
		}
	}
	return nil
}

// ProcessLock is a lock that the process has to take by itself, with the descriptor.
type ProcessLock struct {
	FD   int
	Lock Lock
}

// ProcessLocks lists the locks of the process, each once and with a descriptor that allows it.
func (p *Plan) ProcessLocks() []ProcessLock {
	type key struct {
		dir   int
		inode uint64
		lock  Lock
	}
	seen := map[key]bool{}
	var out []ProcessLock
	for i := range p.FDs {
		f := &p.FDs[i]
		for _, l := range f.Locks {
			access, need := f.Flags&unix.O_ACCMODE, unix.O_RDONLY
			if l.Write {
				need = unix.O_WRONLY
			}
			k := key{f.Place.Dir, f.Inode, l}
			if l.Kind != LockProcess || seen[k] || access != unix.O_RDWR && access != need {
				continue
			}
			seen[k] = true
			out = append(out, ProcessLock{f.FD, l})
		}
	}
	return out
}
