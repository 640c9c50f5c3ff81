package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/criu"
)

// RestoreOptions describe a container to make from an image of one. Of Options, Reaper, CgroupName and Affinity are of no
// use: the processes are those of the image.
type RestoreOptions struct {
	Options
	CRIU criu.Restore // ImageDir and what was asked for; what concerns the container is filled in here
	Warn func(string) // is told what may be wrong with the image, but need not be
}

// restoration is a Restore under way.
type restoration struct {
	*Sandbox
	o        *RestoreOptions
	manifest *criu.Manifest // nil: the image is runc's
	opened   []*os.File     // for CRIU
	lock     *os.File       // says that the container is being created
	cfg      configs.Config
	cgroup   cgroups.Manager
	mounted  string // where the container's root is mounted for CRIU
	logDir   string // made for CRIU's log, if nobody said where it goes
	complete bool
	initPID  int
	console  bool // the terminal has been passed on
	made     []mountPoint
}

// Restore makes a container that goes on from an image, running. The same image may be restored under any number of ids,
// each with a bundle of its own; a root that is read-only may be the same. After an error nothing is left.
func Restore(ctx context.Context, o RestoreOptions) (*Sandbox, error) {
	bundle, spec, err := o.bundleAndSpec()
	if err != nil {
		return nil, err
	}
	manifest, err := criu.Open(o.CRIU.ImageDir)
	if err != nil {
		return nil, err
	}
	for _, w := range manifest.Warnings() {
		o.Warn(w)
	}
	r := &restoration{o: &o, manifest: manifest}
	p, err := r.guarded(ctx, bundle, spec)
	if err != nil {
		return nil, err
	}
	s, err := Load(o.Root, o.ID)
	if err != nil {
		return nil, err
	}
	s.init = p
	return s, nil
}

// guarded restores the container while a guard watches. After an error nothing is left but CRIU's log.
func (r *restoration) guarded(ctx context.Context, bundle string, spec *specs.Spec) (*Process, error) {
	if r.o.CRIU.WorkDir == "" {
		// Not the image: others may be restoring it, too.
		var err error
		if r.logDir, err = os.MkdirTemp("", "corsa-restore-"+r.o.ID+"-"); err != nil {
			return nil, err
		}
		r.o.CRIU.WorkDir = r.logDir
	}
	log := filepath.Join(r.o.CRIU.WorkDir, "restore.log")
	defer r.discardLog(log)
	g, err := startGuard(r.o.Root, r.o.ID, log, r.logDir)
	if err != nil {
		return nil, err
	}
	p, err := r.make(ctx, bundle, spec)
	r.complete = err == nil
	if rerr := g.release(); rerr != nil {
		r.o.Warn(rerr.Error()) // it makes no difference any more
	}
	return p, err
}

// make makes the container, or undoes what it has made.
func (r *restoration) make(ctx context.Context, bundle string, spec *specs.Spec) (*Process, error) {
	s, err := newSandbox(&r.o.Options, bundle, spec)
	if err != nil {
		return nil, err
	}
	r.Sandbox, r.cfg, r.mounted = s, s.container.Config(), filepath.Join(s.Dir(), "criu-root")
	var p *Process
	if err = r.begin(); err == nil {
		p, err = r.run(ctx)
	}
	if err == nil {
		err = os.Remove(filepath.Join(s.Dir(), restoringFile))
	}
	if err != nil {
		err = errors.Join(s.wrap("restore", err), r.undo())
	}
	closeAll([]*os.File{r.lock})
	return p, err
}

// begin marks the state as that of a container which is not complete, and whose restore it is.
func (r *restoration) begin() (err error) {
	if r.cgroup, err = manager.New(r.cfg.Cgroups); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(r.Dir(), restoringFile), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	r.lock, err = r.record()
	return err
}

// discardLog removes a log that nobody asked for, unless it says why something failed.
func (r *restoration) discardLog(log string) {
	if r.logDir == "" {
		return
	}
	if _, err := os.Stat(log); r.complete || errors.Is(err, os.ErrNotExist) {
		_ = os.RemoveAll(r.logDir)
	}
}

// run restores the processes.
func (r *restoration) run(ctx context.Context) (*Process, error) {
	c := &r.o.CRIU
	lp := &libcontainer.Process{}
	pipes, theirs, err := attach(lp, &r.o.Stdio, r.cfg)
	if err != nil {
		return nil, err
	}
	defer closeAll(theirs)
	if theirs != nil {
		copy(c.Stdio[:], theirs)
	} else if r.o.Stdio.Console == nil {
		c.Stdio = [3]*os.File{r.o.Stdio.In, r.o.Stdio.Out, r.o.Stdio.Err}
	}
	if err = r.describe(c); err == nil {
		err = onPrivateMounts(func() error {
			if err := r.mountRoot(); err != nil {
				return err
			}
			return c.Run(ctx)
		})
	}
	if err == nil && r.o.Stdio.Console != nil && !r.console {
		err = errors.New("the bundle says that the process has a terminal, but there is none in the image; set process.terminal to false")
	}
	if err == nil && r.o.PIDFile != "" {
		err = writePIDFile(r.o.PIDFile, r.initPID)
	}
	closeAll(r.opened)
	if err != nil {
		if pipes != nil {
			err = errors.Join(err, pipes.Stdin.Close(), pipes.Stdout.Close(), pipes.Stderr.Close())
		}
		return nil, err
	}
	proc, err := os.FindProcess(r.initPID)
	if err != nil {
		return nil, err
	}
	return &Process{restored: proc, pid: r.initPID, pipes: pipes}, nil
}

// describe fills in what c has to say of the container.
func (r *restoration) describe(c *criu.Restore) error {
	c.Root = r.mounted
	c.ConfigFile = criuConfig(&r.cfg)
	mounts, err := externalMounts(&r.cfg)
	if err != nil {
		return err
	}
	c.Mounts = map[string]string{}
	for _, m := range mounts {
		// CRIU does not follow links. Device nodes need not be on the host: they may have been made in the container.
		source, err := filepath.EvalSymlinks(m.source)
		switch {
		case errors.Is(err, os.ErrNotExist) && m.source == m.place:
			source = m.source
		case err != nil:
			return fmt.Errorf("source of the mount at %s: %w", m.place, err)
		}
		c.Mounts[m.place] = source
	}
	if len(r.cfg.MaskPaths) > 0 {
		c.Mounts[maskName] = "/dev/null"
	}
	if err := r.describeNamespaces(c); err != nil {
		return err
	}
	if err := criu.CheckFiles(c.ImageDir, r.manifest, r.cfg.Rootfs, c.Mounts); err != nil {
		return err
	}
	streams, err := inheritStreams(c, r.manifest)
	r.opened = append(r.opened, streams...)
	if err != nil {
		return err
	}
	c.Spawned, c.Prepared, c.Restored, c.Console = r.spawned, r.prepared, r.restored, r.passConsole
	return nil
}

// describeNamespaces names the namespaces that exist already, as the bundle has them.
func (r *restoration) describeNamespaces(c *criu.Restore) error {
	c.JoinNS, c.Inherit = map[string]string{}, map[string]*os.File{}
	for _, ns := range r.cfg.Namespaces {
		if ns.Path == "" {
			continue
		}
		switch ns.Type {
		case configs.NEWNET, configs.NEWPID:
			f, err := os.Open(ns.Path)
			if err != nil {
				return fmt.Errorf("%s namespace of the bundle: %w", configs.NsName(ns.Type), err)
			}
			c.Inherit[externalNS(ns.Type)] = f
			r.opened = append(r.opened, f)
		case configs.NEWCGROUP:
			return fmt.Errorf("%w: CRIU cannot restore into a cgroup namespace that exists: %s", ErrInvalidBundle, ns.Path)
		default:
			c.JoinNS[configs.NsName(ns.Type)] = ns.Path
		}
	}
	return nil
}

// spawned puts CRIU into the container's cgroups, so that what it makes is born there.
func (r *restoration) spawned(pid int) (map[string]string, error) {
	if err := r.cgroup.Apply(pid); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	if err := r.cgroup.Set(r.cfg.Cgroups.Resources); err != nil {
		return nil, fmt.Errorf("limits of the cgroup: %w", err)
	}
	paths, err := cgroups.ParseCgroupFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return paths, nil
}

// prepared runs the hooks that belong to the making of namespaces.
func (r *restoration) prepared(pid int) error {
	r.initPID = pid
	if r.cfg.Hooks == nil {
		return nil
	}
	bundle, annotations := utils.Annotations(r.cfg.Labels)
	state := &specs.State{
		Version: specs.Version, ID: r.ID(), Status: specs.StateCreating, Pid: pid, Bundle: bundle, Annotations: annotations,
	}
	for _, stage := range []configs.HookName{configs.Prestart, configs.CreateRuntime} {
		if err := r.cfg.Hooks.Run(stage, state); err != nil {
			return err
		}
	}
	return nil
}

// restored makes the state directory one of a running container.
func (r *restoration) restored(pid int) error {
	r.initPID = pid
	return r.writeState(pid)
}

func (r *restoration) passConsole(master *os.File) error {
	defer master.Close()
	if r.o.Stdio.Console == nil {
		return fmt.Errorf("%w: the image has a terminal, but nothing takes its master; set process.terminal to true, and a console socket", ErrInvalidBundle)
	}
	r.console = true
	return utils.SendFile(r.o.Stdio.Console, master)
}

// writeState is what libcontainer does for containers that it has started.
func (r *restoration) writeState(pid int) error {
	state, err := r.container.State()
	if err != nil {
		return err
	}
	state.InitProcessPid, state.Created = pid, time.Now().UTC()
	state.CgroupPaths = r.cgroup.GetPaths()
	if state.InitProcessStartTime, err = startTime(pid); err != nil {
		return err
	}
	if state.ExternalDescriptors, err = standardStreams(pid); err != nil {
		return err
	}
	// CRIU restores into a time namespace whatever the image had, so that clocks go on.
	if !state.Config.Namespaces.Contains(configs.NEWTIME) && configs.IsNamespaceSupported(configs.NEWTIME) {
		state.Config.Namespaces = append(state.Config.Namespaces, configs.Namespace{Type: configs.NEWTIME})
	}
	for _, t := range configs.NamespaceTypes() {
		if configs.IsNamespaceSupported(t) {
			ns := configs.Namespace{Type: t, Path: state.Config.Namespaces.PathOf(t)}
			state.NamespacePaths[t] = ns.GetPath(pid)
		}
	}
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	path := filepath.Join(r.Dir(), "state.json")
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// startTime is when the process pid was started, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may contain anything.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: malformed", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// standardStreams are what CRIU will know the streams of pid by if it is dumped.
func standardStreams(pid int) ([]string, error) {
	list := make([]string, 3)
	for i := range list {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, i))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		list[i] = target
	}
	return list, nil
}

// undo removes what a restore has left.
func (r *restoration) undo() error {
	var err error
	if r.cgroup != nil {
		err = endAll(r.cgroup)
	}
	if r.initPID != 0 {
		// It is our child. It may have been reaped, and that it was killed is no news.
		_, _ = unix.Wait4(r.initPID, nil, 0, nil)
	}
	for _, p := range slices.Backward(r.made) {
		err = errors.Join(err, p.remove())
	}
	if err != nil {
		return err
	}
	return r.destroy()
}
