package service

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
)

const (
	outputMax   = 8 << 20 // bytes of service.log before it becomes service.log.1
	outputLines = 10      // of an error message
)

// printed collects what the service prints: into a file of bounded size, and the last lines for error messages.
type printed struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int64
	tail []byte
	done chan struct{}
}

// collect copies from r, which it owns, to the file at path until the end or until close. r may be nil.
func collect(path string, r *os.File) (*printed, error) {
	p := &printed{path: path, done: make(chan struct{})}
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
		// An error of the file would block the service: it is dropped, the pipe is drained.
		_, _ = io.Copy(p, r)
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

// Write never fails: what it is given has left the pipe, and the pipe must be drained.
func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	const keep = 4096
	p.tail = append(p.tail, b...)
	if len(p.tail) > 2*keep {
		p.tail = append(p.tail[:0], p.tail[len(p.tail)-keep:]...)
	}
	if p.size > outputMax && p.file != nil {
		_ = p.file.Close()
		p.file = nil
		if os.Rename(p.path, p.path+".1") == nil && p.open() != nil {
			p.file = nil
		}
	}
	if p.file != nil {
		n, _ := p.file.Write(b)
		p.size += int64(n)
	}
	return len(b), nil
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
