package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/runtime/service"
)

func newServeCommand(g *globals) *cobra.Command {
	var f serviceFlags
	var id, pidFile string
	var detach bool
	cmd := &cobra.Command{
		Use:   "serve [flags] --socket PATH|--gate binder -- PROGRAM [ARG…]",
		Short: "Run a program of the host as a service, with a private instance for every app",
		Long: "Serve runs a program of the host in a sandbox, waits until it listens, and takes its place at the sockets that it\n" +
			"listens on: from then on every app that connects has its own instance. The program sees the host's files read-only\n" +
			"and has /run and /tmp for itself. It has the CPUs of the caller (taskset). Without --detach serve stays, shows what\n" +
			"the program prints on its standard output, and deletes everything when it is interrupted. With --detach that is in\n" +
			"service.log in the directory ID of the state root, of which the last 8 to 16 MiB are kept.\n\n" +
			"With --gate binder apps call the program through Binder. It has devices of its own, which apps find in the directory\n" +
			"--binder-publish of the host.",
		Example: "  corsa serve --detach --id redis --socket /run/demo/redis.sock -- \\\n" +
			"      redis-server --port 0 --unixsocket /run/demo/redis.sock --unixsocketperm 777 --save ''\n" +
			"  corsa serve --gate binder --binder-devices binder --binder-publish /run/clips --binder-manager aidl3 -- ./clipboard\n" +
			"  corsa serve --tcp 127.0.0.1:8080 --checkpoint every=100 --on-crash retry=1 -- ./server -addr 127.0.0.1:8080",
		Args: takes("PROGRAM", "[ARG…]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := f.options(args)
			if err != nil {
				return err
			}
			if id == "" {
				if id, err = freeID(g.Root, args[0]); err != nil {
					return err
				}
			}
			ref, err := g.ref(id)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
			defer stop()
			if err := service.Serve(ctx, service.ServeOptions{Ref: ref, Host: o, PIDFile: pidFile}); err != nil {
				return err
			}
			if detach {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), id)
				return err
			}
			g.Log.WithField("service", id).Info("serving; interrupt to end")
			return attend(ctx, g.Log, ref, cmd.OutOrStdout())
		},
	}
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.StringVar(&id, "id", "", "the service's id (default: the program's name)")
	fl.BoolVarP(&detach, "detach", "d", false, "print the id and return once apps can connect")
	fl.StringVar(&pidFile, "pid-file", "", "file to write the host pid of the sandbox's first process to")
	f.add(cmd)
	return cmd
}

// freeID makes an id out of a program's name.
func freeID(root, program string) (string, error) {
	name := regexp.MustCompile(`[^A-Za-z0-9_+.-]`).ReplaceAllString(filepath.Base(program), "-")
	for n := 1; ; n++ {
		id := name
		if n > 1 {
			id += "-" + strconv.Itoa(n)
		}
		if _, err := os.Lstat(filepath.Join(root, id)); errors.Is(err, fs.ErrNotExist) {
			return id, nil
		} else if err != nil {
			return "", err
		}
	}
}

// attend stays with a service until it ends or ctx is done, and deletes it then. If nobody reads out any more, which
// would end the program itself in the next pipe, it ends, too; otherwise what cannot be shown is a warning.
func attend(ctx context.Context, log *logrus.Logger, ref service.Ref, out io.Writer) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	// Taken instead of ignored, so that it is not ignored in what is started. The write says EPIPE.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	following, stop := context.WithCancel(context.Background())
	shown := make(chan error, 1)
	go func() {
		err := follow(following, service.OutputPath(ref), out)
		switch {
		case errors.Is(err, unix.EPIPE):
			end()
		case err != nil:
			log.WithField("service", ref.ID).WithError(err).Warnf("it is still in %s", service.OutputPath(ref))
		}
		shown <- err
	}()
	err := untilEnd(ctx, ref)
	stop()
	serr := <-shown
	interrupted := ctx.Err() != nil
	ended := service.Delete(context.WithoutCancel(ctx), ref, true)
	if errors.Is(ended, sandbox.ErrNotExist) {
		ended = nil // another command deleted it
	}
	if interrupted {
		return errors.Join(ended, serr)
	}
	if err == nil && ended == nil {
		err = fmt.Errorf("service %q has ended", ref.ID)
	}
	return errors.Join(err, ended, serr)
}

// untilEnd returns once the service has ended or ctx is done. A monitor that dies is replaced meanwhile.
func untilEnd(ctx context.Context, ref service.Ref) error {
	for ctx.Err() == nil {
		c, err := service.Open(ctx, ref)
		if errors.Is(err, service.ErrNotServed) {
			return nil
		}
		if err != nil {
			return err
		}
		err = c.Events(ctx, ^uint64(0), func(service.Event) error { return nil })
		c.Close()
		if err == nil && !service.Virtualised(ref) {
			return nil
		}
		// Do not spin while a supervisor starts another monitor.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

// follow copies a file that grows to out, until ctx is done. A file that begins anew is followed from its beginning.
func follow(ctx context.Context, path string, out io.Writer) error {
	var f *os.File
	defer func() { _ = f.Close() }() // nil is fine
	for last := false; ; {
		if f == nil {
			f, _ = os.Open(path) // not there yet
		}
		if f != nil {
			if _, err := io.Copy(out, f); err != nil {
				return fmt.Errorf("show what the service prints: %w", err)
			}
			if renamed(f, path) {
				_ = f.Close()
				f = nil
			}
		}
		if last {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			last = true
		}
	}
}

// renamed reports whether path is another file now.
func renamed(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return true
	}
	now, err := os.Stat(path)
	return err == nil && !os.SameFile(have, now)
}
