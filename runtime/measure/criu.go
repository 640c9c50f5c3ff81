package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/criu"
)

// dumpRounds is how often CRIU dumps and restores a process.
const dumpRounds = 10

// dumped is what CRIU took for a process.
type dumped struct {
	live, frozen, ending, restore []time.Duration
	version                       criu.Version
}

// findCRIU looks for CRIU before anything is measured. That there is none is no failure, unless one was named.
func (r *run) findCRIU() error {
	var err error
	if r.criu, err = criu.Find(r.CRIU); err == nil {
		return nil
	}
	if !errors.Is(err, criu.ErrNotFound) || r.CRIU != "" || os.Getenv(criu.Variable) != "" {
		return err
	}
	r.report.Absent = append(r.report.Absent, fmt.Sprintf("CRIU dump and restore: %v", err))
	return nil
}

// peers has CRIU dump and restore a process of the same program, outside of any container, and compares with what has been measured
// of s. That it cannot do it is no failure of ours.
func (r *run) peers(s *subject, name string) error {
	if r.criu.Path == "" || s.huge != "" { // to CRIU that is the same process
		return nil
	}
	r.Progress(s.name + ": CRIU")
	d, err := r.dumps(name)
	if errors.Is(err, criu.ErrCRIU) {
		r.report.Absent = append(r.report.Absent, fmt.Sprintf("CRIU, %s: %v", s.name, err))
		return nil
	}
	if err != nil {
		return err
	}
	r.beside(s.name, d)
	return nil
}

// beside adds d's rows, and to those of the same service how many times faster they are.
func (r *run) beside(service string, d *dumped) {
	frozen, restored := describe(d.frozen), describe(d.restore)
	of := map[string]*Row{}
	for i := range r.report.Rows {
		row := &r.report.Rows[i]
		if row.Service != service || row.Engine != r.engine.Name() {
			continue
		}
		if row.CPU == AnyCPU {
			of[row.Name] = row
		}
		switch row.Name {
		case rowPause, rowWritten:
			row.Faster = frozen.P50 / row.Value.P50
		case rowRestore, rowSpare:
			row.Faster = restored.P50 / row.Value.P50
		}
	}
	add := func(name string, value Dist, note string, against *Dist, of string) {
		row := Row{Name: name, Service: service, CPU: AnyCPU, Value: value, Note: note}
		if against != nil {
			row = row.ratio(of, *against, 0)
		}
		r.report.Rows = append(r.report.Rows, row) // of no engine
	}
	var total, pause, restore *Dist
	if row := of[rowPause]; row != nil {
		whole := row.Parts["total"]
		total, pause = &whole, &row.Value
	}
	if row := of[rowRestore]; row != nil {
		restore = &row.Value
	}
	live := describe(d.live)
	add(rowDump, live, fmt.Sprintf("CRIU %s, left running", d.version), total, "checkpoint, total")
	add(rowFrozen, frozen, "as CRIU counts it", pause, rowPause)
	add(rowDumpEnd, describe(d.ending), "", nil, "")
	add(rowUndump, restored, "", restore, rowRestore)
}

// dumps measures CRIU with a process of its own of the service of that name.
func (r *run) dumps(name string) (_ *dumped, err error) {
	d := &dumped{}
	if d.version, err = r.criu.Version(r.ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", criu.ErrCRIU, err)
	}
	dir := r.path("criu")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := newSubject(dir, name, nil)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // CRIU carries whole sessions
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.start(r.ctx); err != nil {
		return nil, fmt.Errorf("service %s: %w", s.name, err)
	}
	for range dumpRounds {
		if err := d.round(r.ctx, s, r.criu); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// round dumps s, dumps it so that it ends, restores it, and has it answer.
func (d *dumped) round(ctx context.Context, s *subject, program criu.Program) (err error) {
	p := criu.Process{Program: program, PID: s.proc.Pid}
	for _, live := range []bool{true, false} {
		if p.Dir != nil {
			_ = p.Dir.Close() // and everything in it is gone
		}
		if p.Dir, err = memoryDir(); err != nil {
			return err
		}
		t0 := time.Now()
		frozen, err := p.Dump(ctx, live)
		if err != nil {
			return errors.Join(err, p.Dir.Close())
		}
		if took := time.Since(t0); live {
			d.live, d.frozen = append(d.live, took), append(d.frozen, frozen)
		} else {
			d.ending = append(d.ending, took)
		}
	}
	defer func() { err = errors.Join(err, p.Dir.Close()) }()
	if _, err := s.proc.Wait(); err != nil { // CRIU has killed it; its pid is free then
		return err
	}
	t0 := time.Now()
	if err := p.Restore(ctx); err != nil {
		return err
	}
	d.restore = append(d.restore, time.Since(t0))
	if s.proc, err = os.FindProcess(p.PID); err != nil {
		return err
	}
	return s.answers(ctx, false)
}

// memoryDir makes an empty directory in memory that is mounted nowhere, and goes with the last descriptor of it.
func memoryDir() (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("a tmpfs for images: %w", err)
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "size", "100%"); err != nil {
		return fail(err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fail(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return fail(err)
	}
	return os.NewFile(uintptr(fd), "images"), nil
}
