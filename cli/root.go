// Package cli is corsa's command line: one file per verb, each parses its arguments, calls the runtime and prints.
//
// To add a verb, write its constructor, func newXCommand(g *globals) *cobra.Command, and list it in verbs. A verb
// returns its error; it neither prints nor exits. See exit.go for the exit codes.
package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/sandbox"
)

// verbs are the constructors of all commands, by group.
var verbs = map[string][]func(*globals) *cobra.Command{
	groupService: {
		newServeCommand, newAppsCommand, newLogCommand, newCheckpointCommand, newRestoreCommand, newEventsCommand,
		newBinderCommand, newMonitorCommand,
	},
	groupContainer: {
		newCreateCommand, newDeleteCommand, newExecCommand, newKillCommand, newListCommand, newPauseCommand, newPsCommand,
		newResumeCommand, newRunCommand, newSpecCommand, newStartCommand, newStateCommand, newUpdateCommand,
	},
	groupHost: {newCheckCommand, newFeaturesCommand, newMeasureCommand},
}

// globals are the options that every verb has. They are valid when a verb's RunE is called.
type globals struct {
	Root          string         // absolute state root
	Log           *logrus.Logger // where messages for people and their tools go; data goes to standard output
	SystemdCgroup bool
	Rootless      *bool  // nil: auto
	CRIU          string // the CRIU to use, for criu.Find; "" leaves the choice to that

	rootless  string
	isSetUp   bool
	logPath   string
	logFormat string
	debug     bool
	logFile   *os.File // nil: standard error
}

// Main runs the command line args and returns the exit code.
func Main(args []string) int {
	g := &globals{Log: logrus.StandardLogger()}
	// Whatever else the caller has open is not for what we start: a monitor would hold it for good, and a program that
	// has it could not be virtualised. Verbs pass on by number what is meant to be (--preserve-fds).
	if err := utils.CloseExecFrom(3); err != nil {
		g.report(fmt.Errorf("keep inherited descriptors from programs: %w", err))
		return exitFailure
	}
	root, running := newRootCommand(g)
	root.SetArgs(doubleDashes(root, args))
	cmd, err := root.ExecuteC()
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	if err == nil {
		return 0
	}
	// What fails before a verb runs is cobra's: an unknown verb or flag, a wrong number of arguments.
	if !*running {
		var failure *setupError
		if !errors.As(err, &failure) {
			err = &usageError{err}
		}
	}
	// A caller that has asked for a log looks for usage errors in it, too. That this fails as well is not what was wrong first.
	if !g.isSetUp {
		_ = g.setUp()
	}
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		err = fmt.Errorf("%w; most verbs need root, and this is uid %d", err, os.Geteuid())
	}
	g.report(err)
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(os.Stderr, "Usage: %s\n", cmd.UseLine())
	}
	var coded *codedError
	if errors.As(err, &coded) {
		return coded.code
	}
	return exitFailure
}

// newRootCommand builds the command tree. running is set once a verb's own code runs.
func newRootCommand(g *globals) (root *cobra.Command, running *bool) {
	running = new(bool)
	root = &cobra.Command{
		Use:   "corsa [flags] VERB",
		Short: "Run OS services once, with a private instance for every app",
		Long: "corsa runs an OS service once and gives every app its own private instance of it, with checkpoints.\n" +
			"It is also an OCI container runtime with the verbs of runc.",
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(*cobra.Command, []string) error {
			return usagef("no verb given; `corsa help` lists them")
		},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(root, args[0])
			}
			return nil
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return g.setUp() },
	}
	root.Version = "set" // makes cobra add --version; what it prints is the template
	root.SetVersionTemplate(versionText())
	root.Flags().BoolP("version", "v", false, "print the version and what this program was built with")
	f := root.PersistentFlags()
	f.StringVar(&g.Root, "root", defaultRoot(), "directory of the containers' state; best on a tmpfs")
	f.StringVar(&g.logPath, "log", "", "append messages to this file too (default: standard error only)")
	f.StringVar(&g.logFormat, "log-format", "text", "format of messages: text or json")
	f.StringVar(&g.CRIU, "criu", "", "CRIU to use (default: $CORSA_CRIU, the one that came with corsa, or the first in PATH)")
	f.BoolVar(&g.debug, "debug", false, "log what is done")
	f.BoolVar(&g.SystemdCgroup, "systemd-cgroup", false, "have systemd make containers' cgroups; cgroupsPath is then SLICE:PREFIX:NAME")
	f.StringVar(&g.rootless, "rootless", "auto", "go on without cgroups that cannot be made: true, false or auto (unless the caller is root of the host)")
	// Only verbs take flags of their own, so a flag before the verb is global and the verb's stay behind it.
	root.TraverseChildren = true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	root.DisableFlagsInUseLine = true
	root.SetUsageTemplate(usageTemplate)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelpCommand())
	addGroups(root)
	for group, list := range verbs {
		for _, make := range list {
			cmd := make(g)
			cmd.GroupID = group
			cmd.DisableFlagsInUseLine = true // Use says it where it belongs
			root.AddCommand(cmd)
			g.addCompletions(cmd)
		}
	}
	g.addCompletions(root)
	noteRunning(root, running)
	return root, running
}

// noteRunning makes every command set running before its RunE.
func noteRunning(cmd *cobra.Command, running *bool) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			*running = true
			return run(c, args)
		}
	}
	for _, c := range cmd.Commands() {
		noteRunning(c, running)
	}
}

// defaultRoot is what runc does: the user's runtime directory if there is one and we are not root, or
// root of a user namespace only, as under a rootless podman.
func defaultRoot() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" || os.Geteuid() == 0 && (os.Getenv("USER") == "root" || !sandbox.InUserNamespace()) {
		return "/run/corsa"
	}
	return filepath.Join(dir, "corsa")
}

// setUp validates the global options and opens the log.
func (g *globals) setUp() error {
	g.isSetUp = true
	// The log first: what is wrong with the others is to be found in it.
	if err := g.openLog(); err != nil {
		return err
	}
	root, err := filepath.Abs(g.Root)
	if err != nil {
		return &setupError{err}
	}
	if g.Root == "" || root == "/" {
		return fmt.Errorf("--root %q: must be a directory other than /", g.Root)
	}
	g.Root = root
	if g.rootless != "" && !strings.EqualFold(g.rootless, "auto") {
		b, err := strconv.ParseBool(g.rootless)
		if err != nil {
			return fmt.Errorf("--rootless %q: must be true, false or auto", g.rootless)
		}
		g.Rootless = &b
	}
	return nil
}

func (g *globals) openLog() error {
	switch g.logFormat {
	case "text":
	case "json":
		g.Log.SetFormatter(&logrus.JSONFormatter{})
	default:
		return fmt.Errorf("--log-format %q: must be text or json", g.logFormat)
	}
	if g.debug {
		g.Log.SetLevel(logrus.DebugLevel)
	}
	if g.logPath == "" {
		return nil
	}
	f, err := os.OpenFile(g.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	if err != nil {
		return &setupError{fmt.Errorf("--log: %w", err)}
	}
	g.logFile = f
	g.Log.SetOutput(f)
	return nil
}

// report shows an error: to the log file or as JSON for programs, as plain text on standard error for people.
func (g *globals) report(err error) {
	if g.logFile != nil || g.logFormat == "json" {
		g.Log.Error(err)
	}
	if g.logFile != nil || g.logFormat != "json" {
		fmt.Fprintf(os.Stderr, "corsa: %v\n", err)
	}
}
