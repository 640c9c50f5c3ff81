package measure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"corsa.dev/corsa/runtime/criu"
)

// targetImage is what a checkpoint or restore of a container may take, of what runc takes with the same CRIU for the same.
const targetImage = 1.0

// fillTimeout is how long a container may take to fill its memory.
const fillTimeout = 30 * time.Second

// ImageOptions say how to measure checkpoints of whole containers.
type ImageOptions struct {
	Corsa    string       // path of the corsa program
	CRIU     string       // for criu.Find; may be ""
	Rounds   int          // at least 1; 0: 10
	MiB      []int        // sizes of memory; none: 1 and 64
	Progress func(string) // told of each step before it begins; may be nil
}

// imageSteps are what is measured in each round, in order.
var imageSteps = []string{"dump, the container goes on", "dump, it ends", "restore"}

// imageSubject is a container of one runtime that is dumped and restored again and again.
type imageSubject struct {
	name, program string
	flags         []string // of checkpoint and restore
	env           []string
	dir, bundle   string
	id            string
	took          [3][]time.Duration // by step
}

// RunImages measures checkpoint and restore of a container with corsa, and with runc if it is installed, in turns, with the same
// CRIU. It takes about half a minute, and needs root. What it made is gone when it returns.
func RunImages(ctx context.Context, o ImageOptions) (_ *Report, err error) {
	if o.Rounds == 0 {
		o.Rounds = 10
	}
	if len(o.MiB) == 0 {
		o.MiB = []int{1, 64}
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("measuring makes containers with cgroups: run it as root")
	}
	program, err := criu.Find(o.CRIU)
	if err != nil {
		return nil, err
	}
	version, err := program.Version(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	report := &Report{Began: began.Format(time.RFC3339)}
	if report.Host, err = host(); err != nil {
		return nil, err
	}
	runc, rerr := exec.LookPath("runc")
	if rerr != nil {
		report.Absent = append(report.Absent, fmt.Sprintf("runc: %v", rerr))
	}
	for _, mib := range o.MiB {
		o.Progress(fmt.Sprintf("a container with %d MiB, %d times with each runtime", mib, o.Rounds))
		rows, err := imageRows(ctx, &o, program, runc, mib)
		if err != nil {
			return nil, err
		}
		report.Rows = append(report.Rows, rows...)
	}
	report.Method = imageMethods(ctx, version, runc)
	report.Took = time.Since(began).Seconds()
	return report, nil
}

// imageRows measures one size.
func imageRows(ctx context.Context, o *ImageOptions, program criu.Program, runc string, mib int) (_ []Row, err error) {
	dir, err := os.MkdirTemp("", "corsa-measure-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	env := append(os.Environ(), criu.Variable+"="+program.Path)
	// runc takes the criu of PATH.
	path := append(os.Environ(), "PATH="+filepath.Dir(program.Path)+":"+os.Getenv("PATH"))
	subjects := []*imageSubject{
		{name: "corsa", program: o.Corsa, env: env},
		{name: "corsa, no network", program: o.Corsa, env: env, flags: []string{"--empty-ns", "network"}},
	}
	if runc != "" {
		subjects = append(subjects, &imageSubject{name: "runc", program: runc, env: path})
	}
	for i, s := range subjects {
		s.dir, s.id = filepath.Join(dir, strconv.Itoa(i)), fmt.Sprintf("corsa-measure-%d-%d", os.Getpid(), i)
		defer func() { err = errors.Join(err, s.end()) }()
		if err := s.start(ctx, o.Corsa, mib); err != nil {
			return nil, err
		}
	}
	for round := range warmUp + o.Rounds {
		for i := range subjects {
			// Each follows each other one as often.
			if err := subjects[(i+round)%len(subjects)].round(ctx, round >= warmUp); err != nil {
				return nil, err
			}
		}
	}
	var rows []Row
	for step, name := range imageSteps {
		for _, s := range subjects {
			row := Row{Name: name, Service: fmt.Sprintf("%d MiB", mib), CPU: AnyCPU, Note: s.name}
			row.Value = describe(s.took[step])
			last := subjects[len(subjects)-1]
			if s == last && runc != "" {
				continue
			}
			if runc != "" {
				target := targetImage
				if len(s.flags) == 0 {
					target = 0 // its image has what runc's has not
				}
				row = row.ratio("runc", describe(last.took[step]), target)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// start runs a container with that much memory of random content.
func (s *imageSubject) start(ctx context.Context, corsa string, mib int) error {
	var err error
	if s.bundle, err = memoryBundle(ctx, corsa, s.dir, mib); err != nil {
		return err
	}
	pidFile := filepath.Join(s.dir, "pid")
	if err := s.do(ctx, "run", "--detach", "--pid-file", pidFile, "--bundle", s.bundle, s.id); err != nil {
		return err
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	for end := time.Now().Add(fillTimeout); resident(string(text)) < mib<<10; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("the container of %s has not filled %d MiB in %s", s.name, mib, fillTimeout)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// resident is the resident memory of the children of pid, in KiB.
func resident(pid string) int {
	children, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	if err != nil {
		return 0
	}
	sum := 0
	for child := range strings.FieldsSeq(string(children)) {
		status, err := os.ReadFile("/proc/" + child + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			var kib int
			if n, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil && n == 1 {
				sum += kib
			}
		}
	}
	return sum
}

// memoryBundle makes a bundle in dir whose program has that much memory, and waits.
func memoryBundle(ctx context.Context, corsa, dir string, mib int) (string, error) {
	bundle, err := trueBundle(ctx, &StartupOptions{Corsa: corsa}, dir)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(bundle, "rootfs/bin")
	for _, name := range []string{"sh", "dd", "sleep"} {
		if err := os.Link(filepath.Join(bin, "true"), filepath.Join(bin, name)); err != nil {
			return "", err
		}
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
	spec.Root.Readonly = false // runc cannot restore one without a /tmp
	// dd has a block in memory and cannot write it.
	spec.Process.Args = []string{"/bin/sh", "-c", fmt.Sprintf("dd if=/dev/urandom bs=%dM count=1 iflag=fullblock 2>/dev/null | sleep 1000000", mib)}
	if data, err = json.Marshal(&spec); err != nil {
		return "", err
	}
	return bundle, os.WriteFile(path, data, 0o644)
}

// round dumps the container twice, the second time so that it ends, and restores it.
func (s *imageSubject) round(ctx context.Context, counts bool) (err error) {
	image, work := filepath.Join(s.dir, "image"), filepath.Join(s.dir, "work")
	defer func() { err = errors.Join(err, os.RemoveAll(image), os.RemoveAll(work)) }()
	common := append([]string{"--image-path", image, "--work-path", work}, s.flags...)
	for step, args := range [][]string{
		append(append([]string{"checkpoint", "--leave-running"}, common...), s.id),
		append(append([]string{"checkpoint"}, common...), s.id),
		append(append([]string{"restore", "--detach", "--bundle", s.bundle}, common...), s.id),
	} {
		if step == 1 {
			if err := os.RemoveAll(image); err != nil {
				return err
			}
		}
		began := time.Now()
		if err := s.do(ctx, args...); err != nil {
			return err
		}
		if counts {
			s.took[step] = append(s.took[step], time.Since(began))
		}
	}
	return nil
}

// do runs the runtime.
func (s *imageSubject) do(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.program, append([]string{"--root", filepath.Join(s.dir, "state"), "--log", filepath.Join(s.dir, "log")}, args...)...)
	cmd.Env = s.env
	if err := cmd.Run(); err != nil {
		text, rerr := os.ReadFile(filepath.Join(s.dir, "log"))
		return errors.Join(fmt.Errorf("%s %s: %w: %s", s.program, args[0], err, bytes.TrimSpace(text)), rerr)
	}
	return nil
}

// end deletes the container, which may not exist.
func (s *imageSubject) end() error {
	if _, err := os.Stat(filepath.Join(s.dir, "state", s.id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return s.do(context.Background(), "delete", "--force", s.id)
}

func imageMethods(ctx context.Context, version criu.Version, runc string) []string {
	list := []string{
		"From before the runtime is executed until it has ended. One container per runtime, of busybox, with a block of random memory, is dumped, dumped " +
			"so that it ends, and restored, again and again; the runtimes take turns. Images are on the disk of the temporary directory, and not synced.",
		"CRIU is " + version.String() + " for all. runc leaves the network namespace out of its images; corsa does so with --empty-ns network.",
	}
	if runc != "" {
		out, err := exec.CommandContext(ctx, runc, "--version").Output()
		first, _, _ := strings.Cut(string(out), "\n")
		if err != nil {
			first = err.Error()
		}
		list = append(list, "Version: "+first+".")
	}
	return list
}
