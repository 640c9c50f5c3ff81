package measure

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"corsa.dev/corsa/runtime/engine"
)

// checkpoints measures t_C of one service, pinned and not.
func (r *run) checkpoints(s *subject) error {
	return r.placed(s, "checkpoint", r.checkpoint)
}

// placed calls f, which measures step, with an app of its own for each placement.
func (r *run) placed(s *subject, step string, f func(a *app, cpu string) error) (err error) {
	defer func() { err = errors.Join(err, r.cpus.self(AnyCPU)) }()
	for _, cpu := range []string{PinnedCPU, AnyCPU} {
		a, err := s.newApp(r.ctx)
		if err != nil {
			return err
		}
		r.Progress(fmt.Sprintf("%s: %s, %s CPU", s.name, step, cpu))
		if err = r.place(cpu, a); err == nil {
			err = f(a, cpu)
		}
		if err = errors.Join(err, a.end()); err != nil {
			return err
		}
	}
	return nil
}

// checkpoint measures it in turns with fork() by the same instance.
func (r *run) checkpoint(a *app, cpu string) error {
	const n = 1000
	s := a.s
	var pauses, totals, forks, parks, captures, copies []time.Duration
	err := r.repeat(50, n, func() error {
		if err := a.turn(s.echo, s.reply); err != nil {
			return err
		}
		if s.sized {
			if err := a.ask(operation('f', 0), s.reply); err != nil {
				return err
			}
			forks = append(forks, time.Duration(binary.LittleEndian.Uint64(a.buf[:])))
		}
		if err := a.ask(s.echo, s.reply); err != nil {
			return err
		}
		t0 := time.Now()
		if err := a.park(); err != nil {
			return err
		}
		parked := time.Since(t0)
		img, tm, err := s.svc.Checkpoint(r.ctx, a.in, a.conns)
		if err != nil {
			return err
		}
		totals = append(totals, time.Since(t0))
		pauses = append(pauses, parked+tm.Paused())
		parks, captures, copies = append(parks, parked), append(captures, tm.Capture), append(copies, tm.Fork)
		return img.Discard()
	})
	if err != nil {
		return err
	}
	park, capture, fork, total := describe(parks), describe(captures), describe(copies), describe(totals)
	pause := Row{
		Name: rowPause, Service: s.name, CPU: cpu, Value: describe(pauses),
		Parts: map[string]Dist{"park": park, "capture": capture, "fork": fork, "total": total},
		Note:  fmt.Sprintf("park %.0f, read %.0f, fork %.0f; total %.0f", park.P50, capture.P50, fork.P50, total.P50),
	}
	if s.sized {
		target := 0.0
		switch s.threads {
		case 1:
			target = targetPause
		case threadsOfThreaded:
			target = targetPauseMany
		}
		pause = pause.excess("fork()", describe(forks), target)
	}
	if s.name == hugeService {
		pause = pause.aim(targetPauseHuge, pause.Value.P50)
	}
	r.add(pause)
	return nil
}

// writtenPages are 13 MiB.
const writtenPages = 3328

// written measures t_C of an instance that has written to some of its memory since its last checkpoint, pinned and not.
func (r *run) written(s *subject) error {
	return r.placed(s, "checkpoint after writing", r.afterWriting)
}

func (r *run) afterWriting(a *app, cpu string) (err error) {
	s := a.s
	var last engine.Image // without it pages would not be copied
	defer func() {
		if last != nil {
			err = errors.Join(err, last.Discard())
		}
	}()
	var pauses, parks, copies []time.Duration
	err = r.repeat(50, 1000, func() error {
		if err := a.turn(operation('d', writtenPages), s.reply); err != nil {
			return err
		}
		if err := a.ask(s.echo, s.reply); err != nil {
			return err
		}
		t0 := time.Now()
		if err := a.park(); err != nil {
			return err
		}
		parked := time.Since(t0)
		img, tm, err := s.svc.Checkpoint(r.ctx, a.in, a.conns)
		if err != nil {
			return err
		}
		pauses, parks, copies = append(pauses, parked+tm.Paused()), append(parks, parked), append(copies, tm.Fork)
		former := last
		if last = img; former == nil {
			return nil
		}
		return former.Discard()
	})
	if err != nil {
		return err
	}
	park, fork := describe(parks), describe(copies)
	row := Row{
		Name: rowWritten, Service: s.name, CPU: cpu, Value: describe(pauses), Parts: map[string]Dist{"park": park, "fork": fork},
		Note: fmt.Sprintf("park %.0f, fork %.0f", park.P50, fork.P50),
	}
	if s.name == hugeService {
		row = row.aim(targetWritten, row.Value.P50)
	}
	r.add(row)
	return nil
}

// taxes measures what copy-on-write costs the first transaction after a checkpoint.
func (r *run) taxes(s *subject) (err error) {
	a, err := s.newApp(r.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.end()) }()
	defer func() { err = errors.Join(err, r.cpus.self(AnyCPU)) }()
	if err := r.place(PinnedCPU, a); err != nil {
		return err
	}
	for _, pages := range []int{1, 16, 256} {
		r.Progress(fmt.Sprintf("%s: COW tax, %d pages", s.name, pages))
		if err := r.tax(a, pages); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) tax(a *app, pages int) error {
	const n = 1000
	s, request := a.s, operation('d', pages)
	var taxed, free []time.Duration
	err := r.repeat(50, n, func() error {
		img, _, err := s.svc.Checkpoint(r.ctx, a.in, a.conns)
		if err != nil {
			return err
		}
		for _, into := range []*[]time.Duration{&taxed, &free} {
			t0 := time.Now()
			if err := a.turn(request, s.reply); err != nil {
				return errors.Join(err, img.Discard())
			}
			*into = append(*into, time.Since(t0))
			if err := a.park(); err != nil {
				return errors.Join(err, img.Discard())
			}
		}
		// Only now: pages that nobody shares any more would not be copied.
		return img.Discard()
	})
	if err != nil {
		return err
	}
	after, without := describe(taxed), describe(free)
	r.add(Row{
		Name: rowTax, Service: s.name, CPU: PinnedCPU, Value: after.minus(without),
		Parts: map[string]Dist{"afterCheckpoint": after, "without": without},
		Note:  fmt.Sprintf("%d pages: %.0f − %.0f", pages, after.P50, without.P50),
	})
	return nil
}
