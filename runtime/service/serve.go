package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/spec"
)

// stopLimit is how long a monitor may take to end its service; its supervisor, to follow.
const stopLimit = 15 * time.Second

// ServeOptions say what Serve runs.
type ServeOptions struct {
	Ref
	Host    spec.HostBundleOptions // Service is required; PrivateNetwork is set where it is needed
	PIDFile string                 // receives the host pid of the sandbox's pid 1, if set
}

// Serve wraps a program of the host into a sandbox and virtualises it. It returns once apps can connect. After an
// error nothing is left.
func Serve(ctx context.Context, o ServeOptions) (err error) {
	l := o.layout()
	if os.Geteuid() != 0 {
		return fmt.Errorf("serving takes processes over, which only root may do: %w", fs.ErrPermission)
	}
	if err := CheckEndpoints(o.Host.Service); err != nil {
		return err
	}
	for _, e := range o.Host.Service.Endpoints {
		if e.Network == "tcp" {
			o.Host.PrivateNetwork = true
		}
	}
	if _, err := os.Lstat(l.dir()); err == nil {
		return fmt.Errorf("container %q under %s: %w; delete it first or take another id", o.ID, o.Root, sandbox.ErrExist)
	}
	if err := removeBundle(l); err != nil { // of a serve that was killed before it had a container
		return err
	}
	if err := os.MkdirAll(l.bundle(), 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeBundle(l))
		}
	}()
	if err := spec.WriteBundle(l.bundle(), o.Host); err != nil {
		return err
	}
	cpus := new(unix.CPUSet)
	if err := unix.SchedGetaffinity(0, cpus); err != nil {
		return fmt.Errorf("read which CPUs this process may use: %w", err)
	}
	output, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	box, err := sandbox.Create(ctx, sandbox.Options{
		Root: o.Root, ID: o.ID, CgroupName: l.cgroupName(), Bundle: l.bundle(), Reaper: true, PIDFile: o.PIDFile,
		Stdio: sandbox.Stdio{Out: theirs, Err: theirs}, Affinity: cpus,
	})
	_ = theirs.Close()
	if err != nil {
		return err
	}
	if err = Prepare(ctx, o.Ref, box, o.Host.Service); err == nil {
		err = StartAndLaunch(ctx, o.Ref, box, o.Host.Service, output)
	}
	if err != nil {
		return errors.Join(err, Delete(context.WithoutCancel(ctx), o.Ref, true))
	}
	return nil
}

// StartAndLaunch starts the program of the sandbox and its monitor, in the order that the gate needs; see Launch.
func StartAndLaunch(ctx context.Context, r Ref, box *sandbox.Sandbox, svc *spec.Service, output *os.File) error {
	brokered, err := Brokered(svc)
	if err == nil && !brokered {
		err = box.Start()
	}
	if err != nil {
		return err
	}
	return Launch(ctx, r, output)
}

// CheckEndpoints finds out, before anything is started, why the gate could not bind the public sockets, or stand before
// Binder. svc is as seen from outside.
func CheckEndpoints(svc *spec.Service) error {
	if svc.Gate == spec.GateBinder {
		_, err := binderEngine(svc)
		return err
	}
	for _, e := range svc.Endpoints {
		if e.Network != "unix" {
			continue
		}
		dir := filepath.Dir(e.Address)
		if fi, err := os.Stat(dir); err != nil {
			return fmt.Errorf("directory of the socket %s: %w; create it first", e.Address, err)
		} else if !fi.IsDir() {
			return fmt.Errorf("socket %s: %s is not a directory", e.Address, dir)
		}
		fi, err := os.Lstat(e.Address)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case fi.Mode()&fs.ModeSocket == 0:
			return fmt.Errorf("socket %s: the path is taken by something that is not a socket; choose another", e.Address)
		}
		if conn, err := dialUnix(context.Background(), e.Address); err == nil {
			return errors.Join(fmt.Errorf("socket %s: another program listens there; end it first", e.Address), conn.Close())
		}
	}
	return nil
}

// Declared reports what the sandbox's bundle declares as a service; nil if nothing. The annotations of a Kubernetes pod
// are on the container that holds its namespaces as well, which is never a service.
func Declared(annotations map[string]string) (*spec.Service, error) {
	if annotations["io.kubernetes.cri.container-type"] == "sandbox" || annotations["io.kubernetes.cri-o.ContainerType"] == "sandbox" {
		return nil, nil
	}
	svc, declared, err := spec.FromAnnotations(annotations)
	if err != nil || !declared {
		return nil, err
	}
	return svc, nil
}

// Virtualised reports whether the sandbox r.ID is a service with a monitor, alive or to be replaced.
func Virtualised(r Ref) bool {
	_, err := os.Stat(r.layout().record())
	return err == nil
}

// Stop ends the service: its instances, its checkpoints, its public sockets, its monitor and the processes of its
// sandbox. The sandbox itself stays, stopped. A service that is not virtualised is ErrNotServed.
func Stop(ctx context.Context, r Ref) error {
	l := r.layout()
	c := newClient(r)
	defer c.Close()
	for asked := time.Now(); ; {
		k, err := l.tryLock()
		switch {
		case err == nil:
			if err := errors.Join(stopOffline(ctx, l), k.release()); err != nil {
				return err
			}
			return within(ctx, stopLimit, l.awaitNoSupervisor)
		case !errors.Is(err, errLocked):
			return err
		}
		// An answer is no proof and an error no refusal, if it starts or dies just now: the lock decides.
		err = within(ctx, stopLimit, c.stop)
		if err != nil && !lostMonitor(err) && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
		if pid := l.holder(); time.Since(asked) > stopLimit && pid > 1 {
			// It does not end. What it has is ended above, without it.
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("service %q: monitor %d does not end: %w", r.ID, pid, err)
			}
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stopOffline ends a service whose monitor is gone. The caller has the lock, so no other one takes over meanwhile.
func stopOffline(ctx context.Context, l layout) error {
	rec, err := l.load()
	if errors.Is(err, ErrNotServed) {
		return nil // the monitor did all that
	}
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	box, err := sandbox.Load(l.root, l.id)
	if err != nil {
		return err
	}
	errs = append(errs, box.Kill(ctx))
	if rec != nil {
		svc := Outside(box, &rec.Service)
		errs = append(errs, removePublic(svc), l.unroute(svc))
	}
	for _, path := range []string{l.record(), l.journal(), l.control()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, removeSockets(l.sockets()), os.RemoveAll(l.files()))
	return errors.Join(errs...)
}

// Delete removes the sandbox r.ID and, if it is a virtualised service, ends that first. It is for every sandbox:
// the errors are those of sandbox.Load and Sandbox.Delete. Only force ends what still runs.
func Delete(ctx context.Context, r Ref, force bool) error {
	box, err := sandbox.Load(r.Root, r.ID)
	if err != nil {
		return err
	}
	if Virtualised(r) {
		status, err := box.Status()
		if err != nil {
			return err
		}
		if force || status == sandbox.Stopped {
			if err := Stop(ctx, r); err != nil {
				return err
			}
		}
	}
	if err := box.Delete(ctx, force); err != nil {
		return err
	}
	// Its processes are gone now, those of a service that could not be virtualised, too.
	var errs []error
	if svc, err := Declared(box.Annotations()); err == nil && svc != nil { // what is malformed was never served
		svc = Outside(box, svc)
		errs = append(errs, removePublic(svc), r.layout().unroute(svc))
	}
	return errors.Join(append(errs, removeBundle(r.layout()))...)
}

// Kill sends a signal to the service r.ID, which is virtualised. SIGTERM, SIGINT and SIGQUIT, which would end an
// ordinary service, end this one with all its instances; others reach every instance.
func Kill(ctx context.Context, r Ref, sig unix.Signal) error {
	switch sig {
	case unix.SIGKILL, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT:
		return Stop(ctx, r)
	}
	c, err := Open(ctx, r)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Signal(ctx, sig)
}

// removeBundle removes a bundle that Serve generated. There is nothing in it but empty directories, symbolic links
// and config.json, and nothing else is removed: a directory with something in it, or on it, is an error.
func removeBundle(l layout) error {
	rootfs := filepath.Join(l.bundle(), "rootfs")
	entries, err := os.ReadDir(rootfs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	remove := func(path string) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, e := range entries {
		remove(filepath.Join(rootfs, e.Name()))
	}
	remove(rootfs)
	remove(filepath.Join(l.bundle(), spec.ConfigName))
	remove(l.bundle())
	// Shared with other services: it goes with the last one.
	if err := os.Remove(filepath.Dir(l.bundle())); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// OutputPath is the file that collects what a service started by Serve prints.
func OutputPath(r Ref) string { return r.layout().output() }
