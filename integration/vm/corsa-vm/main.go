// Command corsa-vm runs a command, or a shell, in a virtual machine with one of the kernels that `make vm-deps` has
// built, and with files and programs of this machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/integration/vm"
)

type flags struct {
	kernel   string
	smp      int
	memory   int
	programs []string
	files    []string
	load     []string
	corsa    string
	append   []string
	env      []string
	dir      string
	timeout  time.Duration
	out      string
	console  bool
	dmesg    bool
}

// status is the exit code of a command that ran.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

type usageError struct{ error }

func main() {
	// QEMU dies with this process; a signal ends it the same way, but with a word about it.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	err := command().ExecuteContext(ctx)
	stop()
	var code status
	var usage usageError
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "corsa-vm:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "corsa-vm:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var f flags
	root := &cobra.Command{Use: "corsa-vm", Short: "Run commands in a VM", SilenceErrors: true, SilenceUsage: true}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	p := root.PersistentFlags()
	p.StringVarP(&f.kernel, "kernel", "k", "6.1", "kernel, as `corsa-vm kernels` lists them")
	p.IntVar(&f.smp, "smp", 1, "virtual CPUs")
	p.IntVarP(&f.memory, "memory", "m", 512, "memory in MiB")
	p.StringArrayVarP(&f.programs, "program", "p", nil, "put this machine's `PROGRAM` with its libraries on the VM's disk (repeatable)")
	p.StringArrayVarP(&f.files, "file", "f", nil, "put a file or directory into the VM: `HOST[:GUEST]` (repeatable; default /root/NAME)")
	p.StringArrayVarP(&f.load, "load", "l", nil, "load a module first: `'NAME [PARAMETERS]'`, binder, binder-hook or corsa (repeatable)")
	p.StringVar(&f.corsa, "corsa-module", "", "use this `FILE` as corsa.ko")
	p.StringArrayVar(&f.append, "append", nil, "`ARGUMENT` for the kernel's command line (repeatable)")
	p.StringArrayVarP(&f.env, "env", "e", nil, "`NAME=VALUE` for the command (repeatable)")
	p.StringVar(&f.dir, "dir", "", "`DIRECTORY` of the VM in which the command runs (default /root)")

	run := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG...]",
		Short: "Run a command in a VM; its output and exit code are those of corsa-vm",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("which command? corsa-vm run -- COMMAND [ARG...]")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), args) },
	}
	run.Flags().SetInterspersed(false)
	run.Flags().DurationVarP(&f.timeout, "timeout", "t", 10*time.Minute, "end the VM after this time")
	run.Flags().StringVarP(&f.out, "out", "o", "", "existing `DIRECTORY` for what the command leaves in $VM_OUT")
	run.Flags().BoolVar(&f.console, "console", false, "show the kernel's warnings as they come, on stderr")
	run.Flags().BoolVar(&f.dmesg, "dmesg", false, "show the kernel's log at the end, on stderr")
	shell := &cobra.Command{
		Use:   "shell",
		Short: "Open a shell in a VM",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			return vm.Shell(cmd.Context(), o)
		},
	}
	kernels := &cobra.Command{
		Use:   "kernels",
		Short: "List the kernels",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return list() },
	}
	root.AddCommand(run, shell, kernels)
	return root
}

func (f *flags) options() (vm.Options, error) {
	o := vm.Options{
		Kernel: f.kernel, SMP: f.smp, Memory: f.memory, Programs: f.programs, Load: f.load, CorsaModule: f.corsa,
		KernelArgs: f.append, Env: f.env, Dir: f.dir, Timeout: f.timeout, Output: f.out, Stdout: os.Stdout, Stderr: os.Stderr,
	}
	for _, file := range f.files {
		host, guest, ok := strings.Cut(file, ":")
		if !ok {
			guest = "/root/" + host[strings.LastIndexByte(host, '/')+1:]
		}
		o.Files = append(o.Files, vm.File{Host: host, Guest: guest})
	}
	for _, e := range f.env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return o, usageError{fmt.Errorf("--env %q: write NAME=VALUE", e)}
		}
	}
	return o, nil
}

func (f *flags) run(ctx context.Context, args []string) error {
	o, err := f.options()
	if err != nil {
		return err
	}
	o.Command = args
	if f.console {
		o.Console = os.Stderr
	}
	r, err := vm.Run(ctx, o)
	if r != nil && f.dmesg {
		fmt.Fprint(os.Stderr, r.Dmesg)
	}
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return status(r.Code)
	}
	return nil
}

func list() error {
	all, err := vm.Kernels()
	if err != nil {
		return err
	}
	fmt.Printf("%-10s %-24s %-22s %s\n", "KERNEL", "RELEASE", "DEBIAN", "MODULES")
	for _, k := range all {
		var modules []string
		for _, name := range vm.ModuleNames {
			if _, ok := k.Module(name); ok {
				modules = append(modules, name)
			}
		}
		fmt.Printf("%-10s %-24s %-22s %s\n", k.Name, k.Release, k.Version, strings.Join(modules, ","))
	}
	return nil
}
