package measure

import (
	"context"
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
	for _, spare := range []bool{false, true} {
		if err := r.restore(a, img, spare); err != nil {
			return err
		}
	}
	return nil
}

// restore measures it, with an instance that was branched before or not.
func (r *run) restore(a *app, img engine.Image, spare bool) error {
	s := a.s
	branch := func() (engine.Instance, []engine.Plumbed, error) {
		in, plumbed, err := s.svc.Branch(r.ctx, img, []engine.ConnID{a.id})
		if err == nil && spare {
			err = s.warm(r.ctx, in)
		}
		return in, plumbed, err
	}
	var times, deaths, branches, firsts, seconds []time.Duration
	err := r.repeat(50, 1000, func() error {
		if err := a.turn(s.echo, s.reply); err != nil {
			return err
		}
		if spare && len(times) < learnFrom {
			if err := s.learn(a.in); err != nil {
				return err
			}
		}
		var in engine.Instance
		var plumbed []engine.Plumbed
		var err error
		if spare {
			if in, plumbed, err = branch(); err != nil {
				return err
			}
		}
		t0 := time.Now()
		if err := a.die(); err != nil {
			return err
		}
		t1 := time.Now()
		if !spare {
			if in, plumbed, err = branch(); err != nil {
				return err
			}
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
		t4 := time.Now()
		if err := a.ask(s.echo, s.reply); err != nil {
			return err
		}
		times = append(times, t2.Sub(t0)+t4.Sub(t3))
		firsts, seconds = append(firsts, t4.Sub(t3)), append(seconds, time.Since(t4))
		deaths, branches = append(deaths, t1.Sub(t0)), append(branches, t2.Sub(t1))
		return a.park()
	})
	if err != nil {
		return err
	}
	// What the reply takes longer than that of a running instance is the switch.
	death, branched, value, change := describe(deaths), describe(branches), describe(times), describe(firsts).minus(describe(seconds))
	row := Row{
		Name: rowSpare, Service: s.name, CPU: AnyCPU, Value: value, Parts: map[string]Dist{"death": death, "switch": change},
		Note: fmt.Sprintf("death %.0f, switch %.0f", death.P50, change.P50),
	}
	if spare {
		row = row.aim(targetSpare, change.P50)
	} else {
		row.Name, row.Parts["branch"] = rowRestore, branched
		row.Note += fmt.Sprintf(", branch %.0f", branched.P50)
		row = row.aim(targetRestore, value.P50)
	}
	r.add(row)
	return nil
}

// learnFrom is how many instances are looked at for what memory they use.
const learnFrom = 4

// learn has the engine look at what memory in uses, if it can.
func (s *subject) learn(in engine.Instance) error {
	if w, ok := s.svc.(engine.Warmer); ok {
		return w.Learn(in)
	}
	return nil
}

// warm makes a spare of in, as the monitor does.
func (s *subject) warm(ctx context.Context, in engine.Instance) error {
	if w, ok := s.svc.(engine.Warmer); ok {
		return w.Warm(ctx, in)
	}
	return nil
}

// firsts measures how long a new app waits for its first reply.
func (r *run) firsts(s *subject) error {
	r.Progress(s.name + ": new apps")
	for _, name := range []string{rowFirst, rowReady} {
		var times []time.Duration
		err := r.repeat(50, 1000, func() error {
			t0 := time.Now()
			in, _, err := s.svc.Branch(r.ctx, s.svc.Base(), nil)
			if err != nil {
				return err
			}
			if name == rowReady {
				if err := s.warm(r.ctx, in); err != nil {
					return errors.Join(err, in.Kill())
				}
				t0 = time.Now()
			}
			took, err := s.first(in, t0)
			times = append(times, took)
			if err == nil && len(times) <= learnFrom {
				err = s.learn(in)
			}
			return errors.Join(err, in.Kill())
		})
		if err != nil {
			return err
		}
		r.add(Row{Name: name, Service: s.name, CPU: AnyCPU, Value: describe(times)})
	}
	return nil
}

// first has a dormant instance answer a first request, and says how long that is after begun.
func (s *subject) first(in engine.Instance, begun time.Time) (time.Duration, error) {
	fd, err := in.Dial(0)
	if err != nil {
		return 0, err
	}
	c, err := newConn(fd)
	if err != nil {
		return 0, err
	}
	defer c.close()
	if err := c.send(s.echo); err != nil {
		return 0, err
	}
	if err := in.Activate(); err != nil {
		return 0, err
	}
	err = c.receive(s.reply)
	return time.Since(begun), err
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
