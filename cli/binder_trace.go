package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/transcript"
	"corsa.dev/corsa/runtime/sandbox"
)

func newBinderTraceCommand(g *globals) *cobra.Command {
	var format outputFormat
	var count int
	cmd := &cobra.Command{
		Use:   "trace [flags] ID|PID",
		Short: "Print the Binder transactions of a container or process, as they end",
		Long: "Trace prints every Binder transaction to and from a process: who called, the object and code, how many bytes, how long it\n" +
			"waited until a thread took it, at the gate included, how long the answer took, and its size. It reads the tracepoints of\n" +
			"the driver: contents are not shown, and nobody is held up. It ends when it is interrupted or the process ends.",
		Args: takes("ID|PID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 {
				return usagef("--count %d: must not be negative", count)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
			defer stop()
			pid, err := g.binderProcess(ctx, args[0])
			if err != nil {
				return err
			}
			return traceBinder(ctx, pid, count, format.json(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&count, "count", 0, "end after so many transactions (default: never)")
	cmd.ValidArgsFunction = g.completeID
	addFormatFlags(cmd, &format)
	return cmd
}

// binderProcess is the program of container arg, or else the process of that number.
func (g *globals) binderProcess(ctx context.Context, arg string) (int, error) {
	s, err := sandbox.Load(g.Root, arg)
	if err == nil {
		return s.ServicePID(ctx)
	}
	pid, nerr := strconv.Atoi(arg)
	if nerr != nil || pid <= 0 || !errors.Is(err, sandbox.ErrNotExist) {
		return 0, err
	}
	return pid, nil
}

// errEnough ends a trace.
var errEnough = errors.New("as many as were asked for")

func traceBinder(ctx context.Context, pid, count int, asJSON bool, out io.Writer) error {
	seen := 0
	err := transcript.Follow(ctx, pid, func(t *transcript.Transaction) error {
		var err error
		switch {
		case asJSON:
			err = printJSON(out, t)
		case seen == 0:
			_, err = fmt.Fprintf(out, binderTraceFormat, "AT", "FROM", "UID", "OBJECT", "CODE", "BYTES", "WAITED", "TOOK", "REPLY", "STATE")
			err = errors.Join(err, printTransaction(out, t))
		default:
			err = printTransaction(out, t)
		}
		if seen++; err == nil && seen == count {
			err = errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

const binderTraceFormat = "%13s  %-24s %6s %8s %8s %7s %10s %10s %7s  %s\n"

func printTransaction(out io.Writer, t *transcript.Transaction) error {
	from, uid, took, reply, state := fmt.Sprintf("%s-%d", t.Comm, t.TID), strconv.Itoa(t.UID), "-", "-", string(t.State)
	if t.UID < 0 {
		uid = "?"
	}
	if t.State == transcript.Answered {
		took, reply = t.Took.String(), strconv.FormatInt(t.Reply, 10)
	}
	if t.OneWay {
		state += ", oneway"
	}
	if t.Outgoing {
		state += ", outgoing"
	}
	_, err := fmt.Fprintf(out, binderTraceFormat, fmt.Sprintf("%.6f", t.At.Seconds()), from, uid, strconv.Itoa(t.Node), fmt.Sprintf("%#x", t.Code),
		strconv.FormatInt(t.Size, 10), t.Waited.Round(time.Microsecond), took, reply, state)
	return err
}
