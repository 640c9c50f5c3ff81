package service

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// ExitLocked is the exit code of a worker that found the service to have a monitor already.
const ExitLocked = 3

const (
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
	maxFailures  = 8                // in a row, before the next command has to try
	stableAfter  = 30 * time.Second // a worker that lived so long did not fail in a row
)

// SuperviseOptions are those of Supervise and, but for Recover, of every worker it starts.
type SuperviseOptions struct {
	Ref
	Recover bool // take over instead of adopting
	Output  bool // descriptor 4 is the read end of the service's standard output
	Log     *logrus.Entry
}

// Supervise runs a monitor as its child and starts another whenever one dies, so that a killed monitor is replaced
// without anybody asking for it. It also keeps the pipe of the service's output open meanwhile: a service that prints
// something would else be killed by SIGPIPE. It returns when the service has ended, or when it is of no use to go on.
func Supervise(o SuperviseOptions) error {
	ready := os.NewFile(readyFD, "ready")
	if ready == nil {
		return fmt.Errorf("descriptor %d is not open: the monitor is started by other verbs only", readyFD)
	}
	var output *os.File
	if o.Output {
		output = os.NewFile(outputFD, "output")
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	defer signal.Stop(signals)

	present, err := o.layout().supervise()
	if err != nil {
		return err
	}
	defer present.Close()

	takeOver, failures, backoff := o.Recover, 0, firstBackoff
	for {
		started := time.Now()
		err := runWorker(monitorCommand(o.Ref, ready, output, takeOver, true), &ready, signals)
		var exit *exec.ExitError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &exit) && exit.ExitCode() == ExitLocked:
			return nil // whoever started the other one supervises it
		}
		if !Virtualised(o.Ref) {
			return err // there is nothing to take over
		}
		if time.Since(started) > stableAfter {
			failures, backoff = 0, firstBackoff
		}
		if failures++; failures > maxFailures {
			return fmt.Errorf("%d monitors died in a row, the last one: %w; the next corsa command on the service tries again", failures, err)
		}
		o.Log.WithError(err).WithField("next", backoff).Warn("the monitor died; another takes over")
		if !o.pause(backoff, signals) {
			return err
		}
		backoff = min(2*backoff, maxBackoff)
		takeOver = true
	}
}

// pause waits before the next try, and returns false if there should be none: the service has been ended meanwhile.
func (o *SuperviseOptions) pause(d time.Duration, signals <-chan os.Signal) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.After(d)
	for {
		select {
		case <-end:
			return true
		case <-signals:
			return false
		case <-tick.C:
			if !Virtualised(o.Ref) {
				return false
			}
		}
	}
}

// runWorker runs one worker to its end and passes termination signals on. The first worker gets *ready, later ones a
// descriptor that leads nowhere.
func runWorker(cmd *exec.Cmd, ready **os.File, signals <-chan os.Signal) error {
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Start()
	_ = (*ready).Close()
	null, nerr := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if nerr != nil {
		err = errors.Join(err, nerr)
	}
	*ready = null
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case err := <-done:
			return err
		case s := <-signals:
			_ = cmd.Process.Signal(s) // gone already: done tells
		}
	}
}
