package measure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/osthread"
)

// The targets of a container's start-up, of the p50.
const (
	targetStartRunc = 1.0
	targetStartCrun = 1.3
)

// warmUp rounds come first and do not count: programs and libraries are read from the disk.
const warmUp = 2

// StartupOptions say how to measure what it takes to run a container.
type StartupOptions struct {
	Corsa    string       // path of the corsa program
	Rounds   int          // at least 1; 0: 20
	Progress func(string) // told of each step before it begins; may be nil
}

// runtimeUnderTest is an OCI runtime, and what it took.
type runtimeUnderTest struct {
	name, path string
	wall, cpu  []time.Duration
}

// RunStartup measures `run` of /bin/true in a container of busybox, with corsa and with those of runc and crun that are installed, in
// turns. It takes seconds, and needs root. What it made is gone when it returns.
func RunStartup(ctx context.Context, o StartupOptions) (_ *Report, err error) {
	if o.Rounds == 0 {
		o.Rounds = 20
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("measuring makes containers with cgroups: run it as root")
	}
	began := time.Now()
	report := &Report{Began: began.Format(time.RFC3339)}
	if report.Host, err = host(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "corsa-measure-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bundle, err := trueBundle(ctx, &o, dir)
	if err != nil {
		return nil, err
	}
	runtimes := []*runtimeUnderTest{{name: "corsa", path: o.Corsa}}
	for _, name := range []string{"runc", "crun"} {
		path, err := exec.LookPath(name)
		if err != nil {
			report.Absent = append(report.Absent, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		runtimes = append(runtimes, &runtimeUnderTest{name: name, path: path})
	}
	o.Progress(fmt.Sprintf("run /bin/true, %d times with each runtime", o.Rounds))
	// On a thread of its own, whose mounts the programs that it starts get.
	var hidden bool
	err = osthread.Run(func() error {
		if hidden, err = hideUnified(); err != nil {
			return err
		}
		for round := range warmUp + o.Rounds {
			for i := range runtimes {
				// Each follows each other one as often.
				if err := runtimes[(i+round)%len(runtimes)].run(ctx, dir, bundle, round >= warmUp); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	report.Rows = startupRows(runtimes)
	report.Method = startupMethods(ctx, runtimes, hidden)
	report.Took = time.Since(began).Seconds()
	return report, nil
}

// trueBundle makes a bundle of busybox in dir. Its config.json is corsa's own, with nothing that an old runtime does not know.
func trueBundle(ctx context.Context, o *StartupOptions, dir string) (string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("busybox, statically linked, is needed for a container: %w", err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return "", err
	}
	bundle := filepath.Join(dir, "bundle")
	for _, d := range []string{"bin", "proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(bundle, "rootfs", d), 0o755); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs/bin/true"), program, 0o755); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, o.Corsa, "spec", "--bundle", bundle).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s spec: %w: %s", o.Corsa, err, bytes.TrimSpace(out))
	}
	path := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	spec.Version = "1.0.0"
	spec.Process.Terminal, spec.Process.Args, spec.Process.Rlimits = false, []string{"/bin/true"}, nil
	if data, err = json.Marshal(&spec); err != nil {
		return "", err
	}
	return bundle, os.WriteFile(path, data, 0o644)
}

// hideUnified takes the cgroup2 of a hybrid host away from the calling thread, in a mount namespace of its own, and reports whether
// there was one: crun refuses to run where it has controllers.
func hideUnified() (bool, error) {
	const dir = "/sys/fs/cgroup/unified"
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return false, nil
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return false, fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return false, fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return false, fmt.Errorf("unmount %s: %w", dir, err)
	}
	return true, nil
}

// run runs one container.
func (r *runtimeUnderTest) run(ctx context.Context, dir, bundle string, counts bool) error {
	// All of them name their cgroup by the id.
	id := fmt.Sprintf("corsa-measure-%s-%d", r.name, os.Getpid())
	cmd := exec.CommandContext(ctx, r.path, "--root", filepath.Join(dir, r.name), "run", "--bundle", bundle, id)
	// To a file: where a copy has to be made of a pipe, that takes time of ours.
	messages, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		return err
	}
	defer messages.Close()
	cmd.Stderr = messages
	began := time.Now()
	err = cmd.Run()
	wall := time.Since(began)
	if err != nil {
		text, rerr := os.ReadFile(messages.Name())
		// A runtime that was killed by ctx has not tidied up.
		undo := exec.Command(r.path, "--root", filepath.Join(dir, r.name), "delete", "--force", id)
		undo.Stdout, undo.Stderr = io.Discard, io.Discard
		_ = undo.Run()
		return errors.Join(fmt.Errorf("%s run: %w: %s", r.path, err, bytes.TrimSpace(text)), rerr)
	}
	if counts {
		r.wall = append(r.wall, wall)
		r.cpu = append(r.cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	}
	return nil
}

// startupRows compares corsa, the first, with the others.
func startupRows(runtimes []*runtimeUnderTest) []Row {
	targets := map[string]float64{"runc": targetStartRunc, "crun": targetStartCrun}
	ours := runtimes[0]
	wall := Row{Name: "run /bin/true", CPU: AnyCPU, Value: describe(ours.wall)}
	cpu := Row{Name: "the same, CPU time", CPU: AnyCPU, Value: describe(ours.cpu)}
	if len(runtimes) == 1 {
		return []Row{wall, cpu}
	}
	var rows []Row
	for _, r := range runtimes[1:] {
		rows = append(rows, wall.ratio(r.name, describe(r.wall), targets[r.name]), cpu.ratio(r.name, describe(r.cpu), 0))
	}
	return rows
}

func startupMethods(ctx context.Context, runtimes []*runtimeUnderTest, hidden bool) []string {
	var versions []string
	for _, r := range runtimes {
		// What one cannot say does not make its figures wrong.
		out, err := exec.CommandContext(ctx, r.path, "--version").Output()
		first, _, _ := strings.Cut(string(out), "\n")
		if err != nil {
			first = r.name + ": " + err.Error()
		}
		versions = append(versions, first)
	}
	list := []string{
		"From before the runtime is executed until it has ended: create, start, wait and delete of a container with its own mount, pid, network, " +
			"ipc and uts namespaces and cgroups. All runtimes take turns, with the same bundle, and standard streams that are no terminal.",
		"CPU time: of the runtime and of all processes that it waited for, the container's included. It is disturbed less by other load.",
		"Versions: " + strings.Join(versions, "; ") + ".",
	}
	if hidden {
		list = append(list, "This host is hybrid, and crun refuses to run where cgroup2 has controllers: for all of them it was hidden.")
	}
	return list
}
