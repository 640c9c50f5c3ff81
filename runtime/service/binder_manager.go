package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/servicemanager"
	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/spec"
)

// Descriptors of the process that is the service manager of a sandbox.
const (
	managerReadyFD = 3 // write end of a pipe: a byte says that it answers
	managerRootFD  = 4 // root directory of the binderfs
	managerInitFD  = 5 // pidfd of the sandbox's first process, with which it ends
)

// managerPatience is how long a service manager may take to answer.
const managerPatience = 10 * time.Second

// Prepare does what a service needs between its sandbox's creation and its start: it starts the service manager that the
// sandbox's Binder device is to have. That is a process of the host and lives as long as the sandbox's first process,
// whatever becomes of monitors: names and references would be lost with it.
func Prepare(ctx context.Context, r Ref, box *sandbox.Sandbox, svc *spec.Service) error {
	if svc.Gate != spec.GateBinder || svc.Binder.Manager == spec.ManagerOwn {
		return nil
	}
	brokered, err := Brokered(svc)
	if err != nil || brokered { // the broker is the service manager, too
		return err
	}
	if err := startManager(ctx, r, box, &svc.Binder); err != nil {
		return fmt.Errorf("service manager of %q: %w", r.ID, err)
	}
	return nil
}

func startManager(ctx context.Context, r Ref, box *sandbox.Sandbox, b *spec.Binder) error {
	pid, err := box.InitPID()
	if err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("%w: it is not there any more", sandbox.ErrWrongState)
	}
	alive := os.NewFile(uintptr(pidfd), "pidfd")
	defer alive.Close()
	root, err := os.Open(filepath.Join(procPath(pid, "root"), binderRoot))
	if err != nil {
		return err
	}
	defer root.Close()
	log, err := os.OpenFile(r.layout().log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	args := append(append([]string{}, r.Command[1:]...), "binder", "manager", b.Devices[0], b.Manager)
	cmd := exec.Command(r.Command[0], args...)
	cmd.ExtraFiles = []*os.File{theirs, root, alive}
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // what it has to say is in the log
	return awaitManager(ctx, r, cmd.Process, ready)
}

func awaitManager(ctx context.Context, r Ref, p *os.Process, ready *os.File) error {
	answer := make(chan int, 1)
	go func() {
		var b [1]byte
		n, _ := ready.Read(b[:]) // 0: it has ended
		answer <- n
	}()
	var err error
	select {
	case n := <-answer:
		if n == 1 {
			return nil
		}
		return fmt.Errorf("it ended before it was ready; the log ends with: %s", lastLines(r.layout().log(), 5))
	case <-time.After(managerPatience):
		err = fmt.Errorf("it does not answer within %v", managerPatience)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return errors.Join(err, p.Kill())
}

// RunManager is the process of a service manager. It returns when the sandbox has ended, or with the error that keeps the
// manager from its work.
func RunManager(device, protocol string, log *logrus.Entry) (err error) {
	ready, root, alive := os.NewFile(managerReadyFD, "ready"), os.NewFile(managerRootFD, "binderfs"), os.NewFile(managerInitFD, "pidfd")
	if ready == nil || root == nil || alive == nil {
		return errors.New("its descriptors are not open: the service manager is started by other verbs only")
	}
	for _, f := range []*os.File{ready, root, alive} {
		unix.CloseOnExec(int(f.Fd()))
	}
	variant, err := servicemanager.ParseVariant(protocol)
	if err != nil {
		return err
	}
	m, err := servicemanager.New(fmt.Sprintf("/proc/self/fd/%d/%s", managerRootFD, device), servicemanager.Options{Variant: variant})
	if err != nil {
		return err
	}
	// The mount must not be kept by it: the device is open.
	err = root.Close()
	if _, e := ready.Write([]byte{1}); e != nil && !errors.Is(e, io.ErrClosedPipe) && !errors.Is(e, unix.EPIPE) {
		err = errors.Join(err, e)
	}
	err = errors.Join(err, ready.Close())
	if err != nil {
		return errors.Join(err, m.Close())
	}
	log.WithField("device", device).WithField("protocol", variant.String()).Info("service manager")
	select {
	case <-m.Failed():
		return errors.Join(m.Err(), m.Close())
	case <-awaitDeath(int(alive.Fd())):
		return m.Close()
	}
}
