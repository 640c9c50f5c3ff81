package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/sandbox"
)

// usual are the signals that people and programs send to a running command, and end it or stop it unless they are caught. To
// catch all that there are takes Go a millisecond, as long as many a container runs; so others are caught from settled on.
var usual = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM, unix.SIGCONT, unix.SIGTSTP,
	unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH,
}

// settled is how long a program has to run before the unusual signals are caught, too. Until then the Go runtime ignores them.
const settled = 20 * time.Millisecond

// attachment joins a process in a container to corsa's own standard streams and signals until it ends.
type attachment struct {
	log     *logrus.Logger
	signals chan os.Signal
	stdio   sandbox.Stdio
	copies  sync.WaitGroup // streams from the process
	exited  atomic.Bool
	// deliver gives a signal to the program; nil: to the process itself.
	deliver func(unix.Signal) error

	// For a process with a terminal only:
	host   *hostTerminal
	socket *os.File // receives the master
	master *os.File
}

// newAttachment prepares for a process that has a terminal or not. Its stdio is to be given to the process; then
// either wait or abandon has to be called.
func newAttachment(log *logrus.Logger, terminal bool) (*attachment, error) {
	// From now on signals are kept for the process.
	a := &attachment{log: log, signals: make(chan os.Signal, 1024)}
	if terminal {
		host, err := openHostTerminal()
		if err != nil {
			return nil, err
		}
		a.host = host
		if a.socket, a.stdio.Console, err = utils.NewSockPair("console"); err != nil {
			return nil, fmt.Errorf("console socket: %w", err)
		}
	} else {
		a.stdio.Pipes = true
	}
	signal.Notify(a.signals, usual...)
	return a, nil
}

// abandon is called instead of wait when there is no process. Signals stay caught, so that they do not end the clearing up.
func (a *attachment) abandon() {
	if a.socket != nil {
		_ = a.socket.Close() // nothing has been sent over it
		_ = a.stdio.Console.Close()
	}
}

// connect starts to copy. The process may be not running yet.
func (a *attachment) connect(p *sandbox.Process) error {
	if a.host != nil {
		return a.connectTerminal()
	}
	pipes := p.Pipes()
	go func() {
		// That the process does not read to the end is its own business.
		_, err := io.Copy(pipes.Stdin, os.Stdin)
		a.log.Debugf("standard input ended: %v, %v", err, pipes.Stdin.Close())
	}()
	a.copies.Add(2)
	go a.copyOut(os.Stdout, pipes.Stdout)
	go a.copyOut(os.Stderr, pipes.Stderr)
	return nil
}

func (a *attachment) copyOut(w io.Writer, r io.ReadCloser) {
	defer a.copies.Done()
	_, err := io.Copy(w, r)
	// Closing tells a process whose output nobody takes: it gets SIGPIPE, as without us.
	if err = errors.Join(err, r.Close()); err != nil {
		a.log.Debugf("output ended: %v", err)
	}
}

func (a *attachment) connectTerminal() error {
	f, err := utils.RecvFile(a.socket)
	if err = errors.Join(err, a.socket.Close(), a.stdio.Console.Close()); err != nil {
		return fmt.Errorf("receive the container's terminal: %w", err)
	}
	// Again as a non-blocking file, so that a read of it can be ended.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("the container's terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("the container's terminal: %w", err)
	}
	a.master = os.NewFile(uintptr(fd), f.Name())
	if err := rawNewlines(a.master); err != nil {
		return fmt.Errorf("set mode of the container's terminal: %w", err)
	}
	if err := a.host.raw(); err != nil {
		return err
	}
	a.resize()
	go func() {
		_, err := io.Copy(a.master, os.Stdin)
		a.log.Debugf("standard input ended: %v", err)
	}()
	a.copies.Add(1)
	go a.copyTerminal()
	return nil
}

// copyTerminal copies until the process has exited and what it wrote has been read.
func (a *attachment) copyTerminal() {
	defer a.copies.Done()
	for {
		_, err := io.Copy(os.Stdout, a.master)
		// EIO: nobody has the other end open. A process may open it again as /dev/tty or /dev/console.
		if !errors.Is(err, unix.EIO) || a.exited.Load() {
			a.log.Debugf("terminal ended: %v", err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// resize is best effort: our terminal may have gone.
func (a *attachment) resize() {
	if err := a.host.resize(a.master); err != nil {
		a.log.Debugf("resize terminal: %v", err)
	}
}

// wait forwards signals to p until it ends, returns its exit code and restores the terminal.
func (a *attachment) wait(p *sandbox.Process) (int, error) {
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := p.Wait()
		done <- result{code, err}
	}()
	late := time.After(settled)
	for {
		select {
		case r := <-done:
			return r.code, errors.Join(r.err, a.finish())
		case <-late:
			signal.Notify(a.signals)
		case s := <-a.signals:
			a.forward(p, s.(unix.Signal))
		}
	}
}

func (a *attachment) forward(p *sandbox.Process, sig unix.Signal) {
	switch sig {
	case unix.SIGCHLD, unix.SIGPIPE:
	case unix.SIGURG: // the Go runtime preempts goroutines with it
	case unix.SIGWINCH:
		if a.master != nil {
			a.resize()
		}
	default:
		deliver := p.Signal
		if a.deliver != nil {
			deliver = a.deliver
		}
		if err := deliver(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			a.log.Warnf("forward signal %d to process %d: %v", int(sig), p.PID(), err)
		}
	}
}

// finish reads what is left of the process's output. Signals stay caught: nobody is there to get them. A terminal that other processes hold open never ends by itself.
func (a *attachment) finish() error {
	a.exited.Store(true)
	if a.master == nil {
		a.copies.Wait()
		return nil
	}
	err := a.master.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if err == nil {
		a.copies.Wait()
	}
	return errors.Join(err, a.host.restore(), a.master.Close())
}
