package cli

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/runtime/service"
)

// ref names a service, and the monitor that a verb starts where the last one has died.
func (g *globals) ref(id string) (service.Ref, error) {
	exe, err := os.Executable()
	if err != nil {
		return service.Ref{}, err
	}
	command := []string{exe, "--root", g.Root, "--log-format", g.logFormat}
	if g.logPath != "" {
		path, err := filepath.Abs(g.logPath)
		if err != nil {
			return service.Ref{}, err
		}
		command = append(command, "--log", path)
	}
	if g.debug {
		command = append(command, "--debug")
	}
	return service.Ref{Root: g.Root, ID: id, Command: command}, nil
}

// withService calls f with a client of service id. If its monitor has died another one takes over first.
func (g *globals) withService(cmd *cobra.Command, id string, f func(*service.Client) error) error {
	ref, err := g.ref(id)
	if err != nil {
		return err
	}
	c, err := service.Open(cmd.Context(), ref)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// parseApp reads an app as users write it.
func parseApp(s string) (instance.App, error) {
	app, err := instance.ParseApp(s)
	if err != nil {
		return "", &usageError{err}
	}
	return app, nil
}

// appFlag is --app of the verbs that can be about an app.
type appFlag struct {
	app instance.App
}

// appUsage says how apps are written.
const appUsage = "the app: uid:2001 or 2001, cgroup:/PATH, pid:77 or conn:12"

func (f *appFlag) String() string { return string(f.app) }
func (f *appFlag) Type() string   { return "APP" }

func (f *appFlag) Set(s string) (err error) {
	f.app, err = instance.ParseApp(s)
	return err
}
