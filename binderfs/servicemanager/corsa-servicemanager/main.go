// Command corsa-servicemanager is the service manager of a Binder device, for sandboxes that bring none, and asks one.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
)

type usageError struct{ error }

type flags struct {
	device   string
	protocol string
	trace    bool
	dump     bool
	json     bool
	timeout  time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	var usage usageError
	switch {
	case err == nil:
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "corsa-servicemanager:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "corsa-servicemanager:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var f flags
	root := &cobra.Command{Use: "corsa-servicemanager", Short: "Service manager of a Binder device", Args: noCommand, SilenceErrors: true, SilenceUsage: true}
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	p := root.PersistentFlags()
	p.StringVar(&f.device, "device", "/dev/binderfs/binder", "Binder `DEVICE`")
	p.StringVar(&f.protocol, "protocol", "aidl3", "`PROTOCOL` of clients: aidl (Android 8), aidl2 (9), aidl3 (11), aidl4 (12), aidl5 (15), aidl6 (16)")
	p.BoolVar(&f.trace, "trace", false, "print every transaction on stderr")
	p.BoolVar(&f.dump, "dump", false, "print the parcels too (with --trace)")

	serve := &cobra.Command{
		Use: "serve", Short: "Be the device's service manager until a signal comes", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.serve(cmd.Context(), cmd.OutOrStdout()) },
	}
	list := &cobra.Command{
		Use: "list", Short: "List the services", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.list(cmd.Context(), cmd.OutOrStdout()) },
	}
	list.Flags().BoolVar(&f.json, "json", false, "as JSON")
	wait := &cobra.Command{
		Use: "wait NAME", Short: "Wait until a service is there", Args: oneArg,
		RunE: func(cmd *cobra.Command, args []string) error { return f.wait(cmd.Context(), args[0]) },
	}
	wait.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "give up after this time")
	root.AddCommand(serve, list, wait)
	return root
}

func noCommand(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command %q: see corsa-servicemanager --help", args[0])}
	}
	return nil
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

func oneArg(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{errors.New("name one service")}
	}
	return nil
}

func (f *flags) tracer() func(*binder.Event) {
	if !f.trace {
		return nil
	}
	return binder.Printer(os.Stderr, f.dump)
}

func (f *flags) serve(ctx context.Context, out io.Writer) error {
	variant, err := servicemanager.ParseVariant(f.protocol)
	if err != nil {
		return usageError{err}
	}
	m, err := servicemanager.New(f.device, servicemanager.Options{Variant: variant, Trace: f.tracer()})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "service manager of %s, protocol %v\n", f.device, variant)
	select {
	case <-ctx.Done():
	case <-m.Failed():
	}
	return errors.Join(m.Err(), m.Close())
}

// client opens the device for one question.
func (f *flags) client(threads int) (*servicemanager.Client, *binder.Conn, error) {
	variant, err := servicemanager.ParseVariant(f.protocol)
	if err != nil {
		return nil, nil, usageError{err}
	}
	conn, err := binder.Open(f.device, binder.Options{Threads: threads, Protocol: variant.Protocol(), Trace: f.tracer()})
	if err != nil {
		return nil, nil, err
	}
	return servicemanager.NewClient(conn, variant), conn, nil
}

func (f *flags) list(ctx context.Context, out io.Writer) error {
	client, conn, err := f.client(0)
	if err != nil {
		return err
	}
	names, err := client.List(ctx)
	if err = errors.Join(err, conn.Close()); err != nil {
		return err
	}
	if f.json {
		if names == nil {
			names = []string{}
		}
		return json.NewEncoder(out).Encode(names)
	}
	for _, name := range names {
		fmt.Fprintln(out, name)
	}
	return nil
}

func (f *flags) wait(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	client, conn, err := f.client(1)
	if err != nil {
		return err
	}
	ref, err := client.Wait(ctx, name)
	if err == nil {
		ref.Release()
	}
	return errors.Join(err, conn.Close())
}
