package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/sandbox"
	"corsa.dev/corsa/spec"
)

// execFlags are those of exec that change the process.
type execFlags struct {
	process      string
	tty          bool
	user         string
	gids         []uint
	env          []string
	cwd          string
	caps         []string
	noNewPrivs   bool
	apparmor     string
	processLabel string
	cgroups      []string
}

func (f *execFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&f.process, "process", "p", "", "file with the OCI process to execute, instead of PROGRAM and the flags about it")
	fs.BoolVarP(&f.tty, "tty", "t", false, "give the process a terminal")
	fs.StringVarP(&f.user, "user", "u", "", "UID[:GID] of the process")
	fs.UintSliceVarP(&f.gids, "additional-gids", "g", nil, "further group ids of the process")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "NAME=VALUE to add to the environment")
	fs.StringVar(&f.cwd, "cwd", "", "working directory in the container")
	fs.StringArrayVarP(&f.caps, "cap", "c", nil, "capability to add, such as CAP_NET_ADMIN")
	fs.BoolVar(&f.noNewPrivs, "no-new-privs", false, "set the no_new_privs bit")
	fs.StringVar(&f.apparmor, "apparmor", "", "AppArmor profile of the process")
	fs.StringVar(&f.processLabel, "process-label", "", "SELinux label of the process")
	fs.StringArrayVar(&f.cgroups, "cgroup", nil, "[CONTROLLER[,CONTROLLER…]:]PATH: existing cgroup, below the container's, to run the process in; may be repeated")
}

func newExecCommand(g *globals) *cobra.Command {
	var f execFlags
	var consoleSocket, pidfdSocket string
	var detach bool
	var preserveFDs int
	var o sandbox.ExecOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] ID PROGRAM [ARG…]",
		Short: "Execute a further program in a container",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return fmt.Errorf("container id missing")
			case f.process == "" && len(args) == 1:
				return fmt.Errorf("program missing: give one, or --process FILE")
			case f.process != "" && len(args) > 1:
				return fmt.Errorf("program %q and --process are both given", args[1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			defer func() { err = execFailure(err) }()
			s, err := sandbox.Load(g.Root, args[0])
			if err != nil {
				return err
			}
			if o.Process, err = f.processOf(cmd, s, args[1:]); err != nil {
				return err
			}
			if o.SubCgroups, err = subCgroups(f.cgroups); err != nil {
				return err
			}
			if o.ExtraFiles, err = preservedFiles(3, preserveFDs); err != nil {
				return err
			}
			if o.PidfdSocket, err = dialPidfd(pidfdSocket); err != nil {
				return err
			}
			defer o.PidfdSocket.Close()
			if detach {
				return execDetached(cmd.Context(), s, o, consoleSocket)
			}
			if consoleSocket != "" {
				return usagef("--console-socket is of use with --detach only")
			}
			return execAttached(cmd.Context(), g, s, o)
		},
	}
	f.add(cmd)
	fs := cmd.Flags()
	fs.SetInterspersed(false) // what follows the id is the program's
	fs.BoolVarP(&detach, "detach", "d", false, "return once the program has been started")
	fs.StringVar(&consoleSocket, "console-socket", "", "unix socket that receives the master of the process's terminal")
	fs.StringVar(&pidfdSocket, "pidfd-socket", "", "unix socket that receives a pidfd of the process")
	fs.StringVar(&o.PIDFile, "pid-file", "", "file to write the host pid of the process to")
	fs.IntVar(&preserveFDs, "preserve-fds", 0, "pass on N further descriptors, from 3")
	fs.BoolVar(&o.IgnorePaused, "ignore-paused", false, "allow a paused container")
	return cmd
}

// execFailure gives an error an exit code that is hardly a program's.
func execFailure(err error) error {
	var code exitCode
	if err == nil || errors.As(err, &code) {
		return err
	}
	return &codedError{err, exitExec}
}

func execDetached(ctx context.Context, s *sandbox.Sandbox, o sandbox.ExecOptions, consoleSocket string) error {
	stdio, closeStdio, err := detachedStdio(o.Process, consoleSocket)
	if err != nil {
		return err
	}
	defer closeStdio()
	o.Stdio = stdio
	_, err = s.Exec(ctx, o)
	return err
}

func execAttached(ctx context.Context, g *globals, s *sandbox.Sandbox, o sandbox.ExecOptions) error {
	a, err := newAttachment(g.Log, o.Process.Terminal)
	if err != nil {
		return err
	}
	o.Stdio = a.stdio
	p, err := s.Exec(ctx, o)
	if err != nil {
		a.abandon()
		return err
	}
	if err = a.connect(p); err != nil {
		err = errors.Join(err, p.Signal(unix.SIGKILL))
	}
	code, werr := a.wait(p)
	if err = errors.Join(err, werr); err != nil {
		return err
	}
	return exitCode(code)
}

// subCgroups maps controllers to paths; "" stands for all of them.
func subCgroups(args []string) (map[string]string, error) {
	paths := map[string]string{}
	for _, arg := range args {
		controllers, path, ok := strings.Cut(arg, ":")
		if !ok {
			if len(args) > 1 {
				return nil, usagef("--cgroup %q: of several, each needs a controller: CONTROLLER:PATH", arg)
			}
			controllers, path = "", arg
		}
		for c := range strings.SplitSeq(controllers, ",") {
			if ok && c == "" {
				return nil, usagef("--cgroup %q: a controller's name is empty", arg)
			}
			if _, twice := paths[c]; twice {
				return nil, usagef("--cgroup %q: controller %s is given twice", arg, c)
			}
			if slices.Contains(strings.Split(path, "/"), "..") {
				return nil, usagef("--cgroup %q: must stay below the container's cgroup", arg)
			}
			paths[c] = path
		}
	}
	return paths, nil
}

// processOf is the process that the flags and args ask for.
func (f *execFlags) processOf(cmd *cobra.Command, s *sandbox.Sandbox, args []string) (*specs.Process, error) {
	if f.process != "" {
		data, err := os.ReadFile(f.process)
		if err != nil {
			return nil, fmt.Errorf("--process: %w", err)
		}
		var p specs.Process
		if err := spec.Unmarshal(data, &p); err != nil {
			return nil, fmt.Errorf("--process %s: %w", f.process, err)
		}
		return &p, nil
	}
	p, err := s.DefaultProcess()
	if err != nil {
		return nil, err
	}
	p.Args = args
	p.Env = append(p.Env, f.env...)
	p.Terminal = f.tty
	if f.cwd != "" {
		p.Cwd = f.cwd
	}
	if f.apparmor != "" {
		p.ApparmorProfile = f.apparmor
	}
	if f.processLabel != "" {
		p.SelinuxLabel = f.processLabel
	}
	if cmd.Flags().Changed("no-new-privs") {
		p.NoNewPrivileges = f.noNewPrivs
	}
	if len(f.caps) > 0 {
		addCapabilities(p, f.caps)
	}
	return p, f.setUser(&p.User)
}

func addCapabilities(p *specs.Process, caps []string) {
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	c := p.Capabilities
	c.Bounding = append(c.Bounding, caps...)
	c.Effective = append(c.Effective, caps...)
	c.Permitted = append(c.Permitted, caps...)
	// An ambient capability has to be inheritable, and these are not made so.
	if c.Inheritable != nil {
		c.Ambient = append(c.Ambient, caps...)
	}
}

func (f *execFlags) setUser(u *specs.User) error {
	if f.user != "" {
		uid, gid, hasGID := strings.Cut(f.user, ":")
		n, err := strconv.ParseUint(uid, 10, 32)
		if err != nil {
			return usagef("--user %q: must be UID or UID:GID in numbers", f.user)
		}
		u.UID = uint32(n)
		if hasGID {
			if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
				return usagef("--user %q: must be UID or UID:GID in numbers", f.user)
			}
			u.GID = uint32(n)
		}
	}
	for _, gid := range f.gids {
		if gid > math.MaxUint32 {
			return usagef("--additional-gids %d: too large", gid)
		}
		u.AdditionalGids = append(u.AdditionalGids, uint32(gid))
	}
	return nil
}
