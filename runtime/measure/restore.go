package measure

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

// restores measures how long an app whose instance dies waits for its newest checkpoint to answer.
func (r *run) restores(s *subject) (err error) {
	r.Progress(s.name + ": restore")
	a, err := s.newApp(r.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.end()) }()
	img, _, err := s.svc.Checkpoint(r.ctx, a.in, a.conns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Discard()) }()
	const n = 1000
	var times, deaths, branches []time.Duration
	err = r.repeat(50, n, func() error {
		if err := a.turn(s.echo, s.reply); err != nil {
			return err
		}
		t0 := time.Now()
		if err := a.die(); err != nil {
			return err
		}
		t1 := time.Now()
		in, plumbed, err := s.svc.Branch(r.ctx, img, []engine.ConnID{a.id})
		if err != nil {
			return err
		}
		t2 := time.Now()
		old := a.in
		a.in = in
		a.close()
		a.conn = nil
		if err := old.Kill(); err != nil {
			return err
		}
		if len(plumbed) != 1 {
			return fmt.Errorf("%d connections of one came back", len(plumbed))
		}
		t3 := time.Now()
		if a.conn, err = newConn(plumbed[0].FD); err != nil {
			return err
		}
		a.conns = engine.Conns{plumbed[0].Inode: plumbed[0].ID}
		if err := a.turn(s.echo, s.reply); err != nil {
			return err
		}
		times = append(times, t2.Sub(t0)+time.Since(t3))
		deaths, branches = append(deaths, t1.Sub(t0)), append(branches, t2.Sub(t1))
		return a.park()
	})
	if err != nil {
		return err
	}
	death, branch, value := describe(deaths), describe(branches), describe(times)
	r.add(Row{
		Name: rowRestore, Service: s.name, CPU: AnyCPU, Value: value,
		Parts: map[string]Dist{"death": death, "branch": branch},
		Note:  fmt.Sprintf("death %.0f, branch %.0f", death.P50, branch.P50),
	}.aim(targetRestore, value.P50))
	return nil
}

// die ends an instance, which is active, and waits until that is known.
func (a *app) die() error {
	in := a.in
	if engine.IsExclusive(a.s.engine) { // SIGKILL would end all instances: they are one process
		if err := a.send(a.s.crash); err != nil {
			return err
		}
	} else if err := unix.PidfdSendSignal(in.PIDFD(), unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("kill instance %d: %w", in.PID(), err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(in.PIDFD()), Events: unix.POLLIN}}, 10_000)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("instance %d: poll: %w", in.PID(), err)
		case n == 0:
			return fmt.Errorf("instance %d does not die", in.PID())
		default:
			return nil
		}
	}
}
