package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// ErrTimeout says that a VM was ended because its time was over.
var ErrTimeout = errors.New("the VM's time is over")

// ErrNoStatus says that the VM ended before its command did, without a complaint of the kernel.
var ErrNoStatus = errors.New("the VM ended before its command")

// ErrClock says that the clock of a VM was fast. Whatever has limits of time in it will have failed for that.
var ErrClock = errors.New("the VM's clock has run ahead of this machine's")

// File is a file or a directory of the host and where the guest finds it.
type File struct {
	Host  string
	Guest string // absolute
}

// Options describe one run of a VM.
type Options struct {
	Kernel string // as in Kernels
	SMP    int    // virtual CPUs; 0 means 1
	Memory int    // MiB; 0 means 512. A kernel for debugging gets more
	// Programs of the host, by name or path, that are on the guest's disk at the same path, with all that they load.
	// The guest always has busybox for what is missing.
	Programs []string
	// Files belong to this run alone. They pass through the guest's memory, so they should not be large. A program
	// brings the libraries that are not on the disk.
	Files []File
	// Load names the modules that are loaded before the command starts, each with its parameters: "binder",
	// "corsa debug=1". All modules that were built are in /lib/vm of the guest.
	Load []string
	// CorsaModule is the path of a corsa.ko to be used instead of the cache's.
	CorsaModule string
	KernelArgs  []string      // for the kernel's command line
	Env         []string      // NAME=VALUE, for the command, besides PATH, HOME, VM_KERNEL and VM_OUT
	Dir         string        // where the command runs; "" means /root
	Command     []string      // looked up in the guest's PATH
	Timeout     time.Duration // for the whole run; 0 means 10 minutes. A kernel for debugging gets ten times as much
	Stdout      io.Writer     // nil: discarded
	Stderr      io.Writer     // nil: discarded; may be the same as Stdout
	Console     io.Writer     // a copy of what the kernel says while it runs; may be nil
	Output      string        // an existing directory that receives what the command leaves in /out; "": discarded

	interactive bool
}

// Result is what is left of a run.
type Result struct {
	Code    int    // exit code of the command
	Console string // what the kernel wrote to the console: warnings and worse
	Dmesg   string // the kernel's whole log
}

// debugSlowness is how much longer a kernel for debugging may take.
const debugSlowness = 10

// Limit returns how long Run lets the VM take.
func (o Options) Limit() (time.Duration, error) {
	k, err := FindKernel(o.Kernel)
	if err != nil {
		return 0, err
	}
	o.defaults(k)
	return o.Timeout, nil
}

func (o *Options) defaults(k Kernel) {
	if o.SMP == 0 {
		o.SMP = 1
	}
	if o.Memory == 0 {
		o.Memory = 512
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Minute
	}
	if k.Debug {
		o.Timeout *= debugSlowness
	}
	for _, w := range []*io.Writer{&o.Stdout, &o.Stderr, &o.Console} {
		if *w == nil {
			*w = io.Discard
		}
	}
}

// Run boots the kernel, runs the command in it and waits until QEMU has ended. The error is a *KernelError if the
// kernel complained, whatever the command said; ErrTimeout or ErrNoStatus, with the console, if the command did not
// come to its end; ErrClock, with the result, if the VM's time was not this machine's. A command that fails is no error: see Result.Code.
// A kernel that dies before it has loaded a module is booted again, and Options.Console says so: emulated CPUs sometimes trip over
// code that another of them is patching.
func Run(ctx context.Context, o Options) (*Result, error) {
	const boots = 3
	for i := 1; ; i++ {
		r, err := run(ctx, o)
		var died *KernelError
		if i == boots || !errors.As(err, &died) || !died.early() {
			return r, err
		}
		if o.Console != nil {
			fmt.Fprintf(o.Console, "vm: kernel %s died while it was booting (%s); once more\n", died.Kernel, died.Line)
		}
	}
}

func run(ctx context.Context, o Options) (*Result, error) {
	if len(o.Command) == 0 {
		return nil, errors.New("a VM needs a command")
	}
	k, err := FindKernel(o.Kernel)
	if err != nil {
		return nil, err
	}
	o.defaults(k)
	m, err := o.prepare(k)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("kernel %s: %w after %s", k.Name, ErrTimeout, o.Timeout))
	defer cancel()

	var console, dmesg, status bytes.Buffer
	var c channels
	port := func(name string) func(*os.File) { return func(f *os.File) { m.channel(name, f) } }
	err = errors.Join(
		c.open(m.console, c.copyTo(io.MultiWriter(&console, o.Console))),
		c.open(port("stdout"), c.copyTo(o.Stdout)),
		c.open(port("stderr"), c.copyTo(o.Stderr)),
		c.open(port("dmesg"), c.copyTo(&dmesg)),
		c.open(port("status"), c.copyTo(&status)),
		c.open(port("files"), func(r io.Reader) error { return unpack(r, o.Output) }),
	)
	if err != nil {
		m.release()
		return nil, errors.Join(err, c.wait())
	}
	begun := time.Now()
	runErr := m.run(ctx, nil)
	elapsed := time.Since(begun)
	readErr := c.wait()
	r, err := o.conclude(k, runErr, elapsed, status.String(), &Result{Console: clean(console.String()), Dmesg: dmesg.String()})
	if err != nil {
		return r, err // what has been cut off with the VM says no more than that
	}
	return r, readErr
}

func (o *Options) prepare(k Kernel) (*machine, error) {
	programs, err := programClosure(o.Programs)
	if err != nil {
		return nil, err
	}
	disk, err := programs.image()
	if err != nil {
		return nil, err
	}
	initrd, err := o.initrd(k, programs)
	if err != nil {
		return nil, err
	}
	return o.newMachine(k, initrd, disk), nil
}

// conclude judges a run by what the kernel and the guest's first program have said.
func (o *Options) conclude(k Kernel, runErr error, elapsed time.Duration, status string, r *Result) (*Result, error) {
	for _, text := range []string{r.Console, r.Dmesg} {
		if line := complaint(text); line != "" {
			return r, &KernelError{Kernel: k.Name, Line: line, Console: text}
		}
	}
	if runErr != nil {
		return r, fmt.Errorf("%w\n--- console ---\n%s", runErr, r.Console)
	}
	var up float64
	if _, err := fmt.Sscanf(status, "exit %d up %f", &r.Code, &up); err != nil {
		return r, fmt.Errorf("kernel %s: %w\n--- console ---\n%s", k.Name, ErrNoStatus, r.Console)
	}
	const tolerance = 1.2 // and what the boot may be off by
	if up > tolerance*elapsed.Seconds()+5 {
		return r, fmt.Errorf("kernel %s: %w: %.0f s in %.0f s", k.Name, ErrClock, up, elapsed.Seconds())
	}
	return r, nil
}

// Shell boots the kernel with the caller's terminal as its console and a shell on it, until the shell ends.
func Shell(ctx context.Context, o Options) error {
	k, err := FindKernel(o.Kernel)
	if err != nil {
		return err
	}
	o.defaults(k)
	o.interactive = true
	m, err := o.prepare(k)
	if err != nil {
		return err
	}
	m.terminal()
	return m.run(ctx, func(cmd *exec.Cmd) { cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr })
}

// unpack reads the guest's files into dir.
func unpack(r io.Reader, dir string) error {
	if dir == "" {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("files of the VM: %w", err)
		}
		name := filepath.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeReg:
			err = writeFile(root, name, t, os.FileMode(h.Mode).Perm())
		}
		if err != nil {
			return fmt.Errorf("file %s of the VM: %w", h.Name, err)
		}
	}
}

func writeFile(root *os.Root, name string, r io.Reader, mode os.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// clean makes the console's text fit for a terminal and a log.
func clean(s string) string { return strings.ReplaceAll(s, "\r", "") }
