package service

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
)

const (
	outputMax   = 8 << 20 // bytes of service.log before it becomes service.log.1
	outputLines = 10      // of an error message
)

// printed collects what the service prints: into a file of bounded size, and the last lines for error messages.
type printed struct {
	path string
	log  *logrus.Entry

	mu   sync.Mutex
	file *os.File
	size int64
	tail []byte
	done chan struct{}
	lost bool // the last write failed
}

// collect copies from r, which it owns, to the file at path until the end or until close. r may be nil.
func collect(path string, r *os.File, log *logrus.Entry) (*printed, error) {
	p := &printed{path: path, log: log, done: make(chan struct{})}
	if r == nil {
		close(p.done)
		return p, nil
	}
	if err := p.open(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	go func() {
		defer close(p.done)
		defer r.Close()
		if _, err := io.Copy(p, r); err != nil {
			log.WithError(err).Error("cannot read what the service prints")
		}
	}()
	return p, nil
}

func (p *printed) open() error {
	f, err := os.OpenFile(p.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log of the service's output: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	p.file, p.size = f, fi.Size()
	return nil
}

// Write never fails: what it is given has left the pipe, and the pipe must be drained, or the service would block. That
// the file does not take it is logged, once until it does again.
func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	const keep = 4096
	p.tail = append(p.tail, b...)
	if len(p.tail) > 2*keep {
		p.tail = append(p.tail[:0], p.tail[len(p.tail)-keep:]...)
	}
	err := p.keep(b)
	if err != nil && !p.lost {
		p.log.WithError(err).Error("what the service prints is not kept")
	}
	p.lost = err != nil
	return len(b), nil
}

// keep writes to the file, which is begun anew when it has become large. p.mu is held.
func (p *printed) keep(b []byte) error {
	var rotated error
	if p.size > outputMax {
		rotated = errors.Join(p.file.Close(), os.Rename(p.path, p.path+".1"))
		if err := p.open(); err != nil {
			return errors.Join(rotated, err)
		}
	}
	n, err := p.file.Write(b) // into the old one, too, where that has to do
	p.size += int64(n)
	return errors.Join(rotated, err)
}

// explain adds the last lines that the service printed to err.
func (p *printed) explain(err error) error {
	if err == nil {
		return nil
	}
	p.mu.Lock()
	text := strings.TrimRight(string(p.tail), "\n")
	p.mu.Unlock()
	if text == "" {
		return err
	}
	lines := strings.Split(text, "\n")
	return fmt.Errorf("%w; the last that it printed:\n  %s", err, strings.Join(lines[max(0, len(lines)-outputLines):], "\n  "))
}

// reopenOutput is a read end of the pipe that pid has as standard output, for a monitor whose predecessor and its
// supervisor are both dead. nil if that is not a pipe.
func reopenOutput(pid int) (*os.File, error) {
	path := procPath(pid, "fd/1")
	target, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !strings.HasPrefix(target, "pipe:[") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the service's output: %w", err)
	}
	return f, nil
}
