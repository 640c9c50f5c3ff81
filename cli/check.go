package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/check"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/kmod"
	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/spec"
)

// findProgram is how long `check ID` waits for a container's program that is just being executed.
const findProgram = 5 * time.Second

// checkFlags are the declarations that would otherwise come from a bundle.
type checkFlags struct {
	pid     int
	sockets []string
	tcp     []string
	shared  []string
	private []string
	engine  string
	gate    string
	json    bool
}

func newCheckCommand(g *globals) *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check [flags] [ID]",
		Short: "Tell whether this host, a process or a container's program can be virtualised",
		Long: "Without an argument check asks the host what it offers. With --pid it looks at one process, with ID at the\n" +
			"program of a container, from outside: nothing is stopped or changed. Everything that stands in the way is\n" +
			"listed with its reason and the way out, and the exit code is 1.",
		Example: "  corsa check\n  corsa check --pid $(pidof redis-server) --socket /run/demo/redis.sock",
		Args:    takes("[ID]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			byPID := cmd.Flags().Changed("pid")
			switch {
			case byPID && len(args) > 0:
				return usagef("--pid and a container ID exclude each other")
			case byPID || len(args) > 0:
				return f.checkProcess(cmd, g, args)
			case len(f.shared)+len(f.private)+len(f.sockets)+len(f.tcp) > 0 || cmd.Flags().Changed("engine") || cmd.Flags().Changed("gate"):
				return usagef("--shared, --private, --socket, --tcp, --gate and --engine describe a service: give --pid or a container ID")
			}
			return f.checkHost(cmd, g)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.pid, "pid", 0, "the process to look at")
	flags.StringArrayVar(&f.shared, "shared", nil, "a path, as the process sees it, whose files all instances share; may be repeated")
	flags.StringArrayVar(&f.private, "private", nil, "a directory, as the process sees it, of which each instance gets its own; may be repeated")
	flags.StringArrayVar(&f.sockets, "socket", nil, "a unix socket on which the service listens; may be repeated")
	flags.StringArrayVar(&f.tcp, "tcp", nil, "a loopback ADDRESS:PORT on which the service listens; may be repeated")
	flags.StringVar(&f.engine, "engine", "", spec.LegalEngine+" (default auto, or what the bundle says): what stands in the way differs")
	flags.StringVar(&f.gate, "gate", "", spec.LegalGate+" (default socket, or what the bundle says): binder lets the process have Binder devices")
	flags.BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

func (f *checkFlags) checkHost(cmd *cobra.Command, g *globals) error {
	report := check.Host(g.CRIU)
	out := cmd.OutOrStdout()
	var err error
	if f.json {
		err = printJSON(out, report)
	} else {
		err = printHost(out, report)
	}
	if err != nil {
		return err
	}
	for _, status := range report.Engines {
		if status.Available {
			return nil
		}
	}
	return exitCode(exitFailure)
}

func (f *checkFlags) checkProcess(cmd *cobra.Command, g *globals, args []string) error {
	options, err := f.options()
	if err != nil {
		return err
	}
	pid := f.pid
	if len(args) > 0 {
		if pid, err = containerProgram(cmd.Context(), g, args[0], &options); err != nil {
			return err
		}
	} else if pid <= 0 {
		return usagef("--pid %d: must be positive", pid)
	}
	// They outweigh the bundle.
	if f.engine != "" {
		options.Engine = f.engine
	}
	if f.gate != "" {
		options.Binder = f.gate == spec.GateBinder
	}
	report, err := checkWith(pid, options)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if f.json {
		err = printJSON(out, struct {
			Virtualizable bool `json:"virtualizable"`
			*check.Report
		}{report.Err() == nil, report})
	} else {
		err = printProcess(out, report)
	}
	if err == nil && report.Err() != nil {
		err = exitCode(exitFailure)
	}
	return err
}

// checkWith inspects the process for the engine in o. With auto that is the one that `serve` would take: kmod where its
// module is and the process is fit for it, else fork.
func checkWith(pid int, o check.Options) (*check.Report, error) {
	if o.Engine != "" && o.Engine != "auto" {
		return check.Process(pid, o)
	}
	if o.Binder { // no other stands before Binder
		o.Engine = check.EngineKmod
		return check.Process(pid, o)
	}
	if kmod.Available() == nil {
		o.Engine = check.EngineKmod
		if report, err := check.Process(pid, o); err != nil || report.Err() == nil {
			return report, err
		}
	}
	o.Engine = check.EngineFork
	return check.Process(pid, o)
}

// options validates the declarations on the command line.
func (f *checkFlags) options() (check.Options, error) {
	o := check.Options{Deep: true, Shared: f.shared, Private: f.private}
	if f.engine != "" {
		if _, err := spec.ParseEngine(f.engine); err != nil {
			return o, usagef("--engine: %w", err)
		}
	}
	if f.gate != "" {
		if _, err := spec.ParseGate(f.gate); err != nil {
			return o, usagef("--gate: %w", err)
		}
	}
	for flag, paths := range map[string][]string{"--shared": f.shared, "--private": f.private} {
		for _, path := range paths {
			if !filepath.IsAbs(path) {
				return o, usagef("%s %q: must be an absolute path, as the process sees it", flag, path)
			}
		}
	}
	for _, list := range []struct {
		flag   string
		values []string
		parse  func(string) (spec.Endpoint, error)
	}{{"--socket", f.sockets, spec.ParseSocket}, {"--tcp", f.tcp, spec.ParseTCP}} {
		for _, value := range list.values {
			endpoint, err := list.parse(value)
			if err != nil {
				return o, usagef("%s: %w", list.flag, err)
			}
			o.Listeners = append(o.Listeners, engine.Address(endpoint))
		}
	}
	return o, nil
}

// containerProgram finds the program of container id and adds what its bundle declares to o.
func containerProgram(ctx context.Context, g *globals, id string, o *check.Options) (pid int, err error) {
	s, err := sandbox.Load(g.Root, id)
	if err != nil {
		return 0, err
	}
	state, err := s.State()
	if err != nil {
		return 0, err
	}
	if state.Status != sandbox.Running && state.Status != sandbox.Paused {
		return 0, fmt.Errorf("container %q is %s: there is no program to look at; way out: `corsa start %s` or `corsa run`", id, state.Status, id)
	}
	service, declared, err := spec.FromAnnotations(state.Annotations)
	if err != nil {
		return 0, fmt.Errorf("container %q: %w", id, err)
	}
	if declared {
		o.Engine, o.Binder = service.Engine, service.Gate == spec.GateBinder
		o.Shared = append(o.Shared, service.Shared...)
		o.Private = append(o.Private, service.Private...)
		for _, endpoint := range service.Endpoints {
			o.Listeners = append(o.Listeners, engine.Address(endpoint))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, findProgram)
	defer cancel()
	return s.ServicePID(ctx)
}
