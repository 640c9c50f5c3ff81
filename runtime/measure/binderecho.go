package measure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/binderfs/binder"
)

// echo is where clients find an echo service.
type echo struct {
	device string
	name   string // in the service manager of the device; "": the service is the context manager itself
}

// names are the arguments of `corsa binder echo` and `load` that name the service.
func (e echo) names() []string {
	if e.name == "" {
		return nil
	}
	return []string{e.name}
}

// directEcho starts a service without corsa, on a binderfs of its own.
func (r *run) directEcho() (at echo, stop func() error, err error) {
	dir := r.path("direct")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return echo{}, nil, err
	}
	fs, err := binderfs.Mount(dir, binderfs.Options{})
	if err != nil {
		return echo{}, nil, errors.Join(err, os.Remove(dir))
	}
	unmount := func() error { return errors.Join(fs.Unmount(), os.Remove(dir)) }
	d, err := fs.AddDevice("binder")
	if err == nil {
		err = fs.Chmod("binder", 0o666)
	}
	if err != nil {
		return echo{}, nil, errors.Join(err, unmount())
	}
	cmd := exec.Command(r.Corsa, "binder", "echo", d.Path)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return echo{}, nil, errors.Join(err, unmount())
	}
	stop = func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		return unmount()
	}
	if err := awaitEcho(r.ctx, d.Path); err != nil {
		return echo{}, nil, errors.Join(err, stop())
	}
	return echo{device: d.Path}, stop, nil
}

func awaitEcho(ctx context.Context, device string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := binder.Open(device, binder.Options{})
	if err != nil {
		return err
	}
	for err = conn.Ping(ctx); errors.Is(err, binder.ErrDead) && ctx.Err() == nil; err = conn.Ping(ctx) {
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		err = fmt.Errorf("the echo service does not answer: %w", err)
	}
	return errors.Join(err, conn.Close())
}

// brokerName is the name of the service behind a broker, which has to have one.
const brokerName = "echo"

// gatedEcho is the same service behind corsa.
type gatedEcho struct {
	echo
	gate binderGate
	root string
	id   string
}

// startGated starts the service behind a gate.
func (r *run) startGated(g binderGate) (*gatedEcho, error) {
	publish := r.path(g.engine)
	e := &gatedEcho{
		echo: echo{device: publish + "/binder"}, gate: g, root: r.path("root-" + g.engine), id: fmt.Sprintf("measure-%s-%d", g.engine, os.Getpid()),
	}
	args := []string{
		"serve", "--detach", "--id", e.id, "--engine", g.engine, "--gate", "binder", "--binder-devices", "binder", "--binder-publish", publish,
	}
	if g.broker {
		e.name = brokerName
		args = append(args, "--binder-manager", echoManager.String(), "--binder-names", e.name)
	}
	args = append(args, "--", r.Corsa, "binder", "echo", "/dev/binder")
	if err := r.corsa(e.root, append(args, e.names()...)...); err != nil {
		return nil, errors.Join(err, os.RemoveAll(e.root)) // a serve that fails leaves no service
	}
	return e, nil
}

// stop deletes the service.
func (e *gatedEcho) stop(r *run) error {
	return errors.Join(r.corsa(e.root, "delete", "--force", e.id), os.RemoveAll(e.root))
}

// switches is how often another instance than before was made active.
func (e *gatedEcho) switches(r *run) (uint64, error) {
	type counted struct {
		Switches uint64 `json:"switches"`
	}
	if !e.gate.broker {
		var all counted
		err := r.corsaJSON(&all, e.root, "binder", "stats", "--json", e.id)
		return all.Switches, err
	}
	var apps []counted
	err := r.corsaJSON(&apps, e.root, "apps", "--json", e.id)
	var n uint64
	for _, a := range apps {
		n += a.Switches
	}
	return n, err
}

// corsaJSON runs a verb of the program that we are and decodes what it prints.
func (r *run) corsaJSON(into any, root string, args ...string) error {
	out, err := exec.Command(r.Corsa, append([]string{"--root", root}, args...)...).Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		return fmt.Errorf("corsa %s: %w", args[0], err)
	}
	return nil
}
