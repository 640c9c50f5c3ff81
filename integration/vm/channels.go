package vm

import (
	"errors"
	"io"
	"os"
	"sync"
)

// channels read what a VM sends, each in a goroutine of its own, until the VM has ended.
type channels struct {
	running sync.WaitGroup
	mu      sync.Mutex
	errs    []error
	writing sync.Mutex
}

// open makes a pipe, gives its end for writing away and reads from the other.
func (c *channels) open(give func(*os.File), read func(io.Reader) error) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	give(w)
	c.running.Go(func() {
		err := read(r)
		// A pipe that nobody reads would stop the guest.
		_, restErr := io.Copy(io.Discard, r)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.errs = append(c.errs, err, restErr, r.Close())
	})
	return nil
}

// wait returns when QEMU has closed all, with what went wrong on this side.
func (c *channels) wait() error {
	c.running.Wait()
	return errors.Join(c.errs...)
}

// copyTo writes what arrives to w. Several channels may have the same writer.
func (c *channels) copyTo(w io.Writer) func(io.Reader) error {
	return func(r io.Reader) error { _, err := io.Copy(turns{&c.writing, w}, r); return err }
}

// turns lets one write at a time pass.
type turns struct {
	mu *sync.Mutex
	w  io.Writer
}

func (t turns) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.w.Write(p)
}
