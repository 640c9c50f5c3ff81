package measure

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// switches measures t_R of one service, pinned and not.
func (r *run) switches(s *subject) (err error) {
	a, err := s.newApp(r.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.end()) }()
	b, err := s.newApp(r.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.end()) }()
	defer func() { err = errors.Join(err, r.cpus.self(AnyCPU)) }()
	for _, cpu := range r.placements() {
		r.Progress(fmt.Sprintf("%s: switch, %s CPU", s.name, cpu))
		if err := r.place(cpu, a, b); err != nil {
			return err
		}
		pipes := &pingPong{}
		if err := r.pingPong(pipes); err != nil {
			return err
		}
		inside, err := r.startInside(s)
		if err != nil {
			return err
		}
		row, err := r.switchRow(s, a, b)
		if err != nil {
			return err
		}
		// Before and after, since the machine's mood changes.
		if err := r.pingPong(pipes); err != nil {
			return err
		}
		target := 0.0
		if s.threads == 1 && cpu == PinnedCPU {
			target = targetSwitch
		}
		row.CPU = cpu
		r.add(row.ratio("ping-pong", describe(pipes.times), target))
		if err := inside.rows(r, s, cpu, describe(pipes.times)); err != nil {
			return err
		}
	}
	return nil
}

// placements are those at which a switch is measured.
func (r *run) placements() []string {
	if r.Quick {
		return []string{PinnedCPU}
	}
	return []string{PinnedCPU, AnyCPU}
}

func (r *run) switchRow(s *subject, a, b *app) (Row, error) {
	const n = 2000
	changed, same, parked := make([]time.Duration, 0, n), make([]time.Duration, 0, n), make([]time.Duration, 0, n)
	next, other := a, b
	err := r.repeat(1000, n, func() error {
		t0 := time.Now()
		if err := next.turn(s.echo, s.reply); err != nil {
			return err
		}
		t1 := time.Now()
		if err := next.ask(s.echo, s.reply); err != nil {
			return err
		}
		t2 := time.Now()
		if err := next.park(); err != nil {
			return err
		}
		changed, same, parked = append(changed, t1.Sub(t0)), append(same, t2.Sub(t1)), append(parked, time.Since(t2))
		next, other = other, next
		return nil
	})
	if err != nil {
		return Row{}, err
	}
	first, again, park := describe(changed), describe(same), describe(parked)
	return Row{
		Name: rowSwitch, Service: s.name, Value: first.minus(again),
		Parts: map[string]Dist{"afterChange": first, "without": again, "park": park},
		Note:  fmt.Sprintf("%.1f − %.1f; park %.0f", first.P50, again.P50, park.P50),
	}, nil
}

// pingPong are round trips of one byte through two pipes to another process on the CPUs of the calling thread.
type pingPong struct{ times []time.Duration }

func (r *run) pingPong(p *pingPong) (err error) {
	there, back := [2]int{}, [2]int{}
	if err := unix.Pipe2(there[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	if err := unix.Pipe2(back[:], unix.O_CLOEXEC); err != nil {
		return errors.Join(fmt.Errorf("pipe: %w", err), unix.Close(there[0]), unix.Close(there[1]))
	}
	in, out := os.NewFile(uintptr(there[0]), "pipe"), os.NewFile(uintptr(back[1]), "pipe")
	cat := exec.Command("cat")
	cat.Stdin, cat.Stdout = in, out
	err = cat.Start()
	err = errors.Join(err, in.Close(), out.Close())
	to, from := &conn{fd: there[1]}, &conn{fd: back[0]}
	defer from.close()
	if err != nil {
		to.close()
		return fmt.Errorf("ping-pong: %w", err)
	}
	defer func() {
		to.close() // cat ends at the end of its input
		err = errors.Join(err, cat.Wait())
	}()
	const warm, n = 500, 5000
	b := []byte{1}
	for i := range warm + n {
		t := time.Now()
		if err := to.send(b); err != nil {
			return err
		}
		if err := from.receive(1); err != nil {
			return err
		}
		if i >= warm {
			p.times = append(p.times, time.Since(t))
		}
	}
	return nil
}
