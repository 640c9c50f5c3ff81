package measure

import (
	"errors"
	"fmt"
	"time"
)

// crowds measures many apps that take turns, and what each of them holds while it is dormant.
func (r *run) crowds(s *subject) (err error) {
	var apps []*app
	defer func() {
		for _, a := range apps {
			err = errors.Join(err, a.end())
		}
	}()
	for _, n := range crowdSizes(r.Apps) {
		r.Progress(fmt.Sprintf("%s: %d apps", s.name, n))
		before, err := available()
		if err != nil {
			return err
		}
		had := len(apps)
		for len(apps) < n {
			if r.ctx.Err() != nil {
				return r.ctx.Err()
			}
			a, err := s.newApp(r.ctx)
			if err != nil {
				return fmt.Errorf("app %d of %d: %w", len(apps)+1, n, err)
			}
			apps = append(apps, a)
		}
		after, err := available()
		if err != nil {
			return err
		}
		if err := r.turns(s, apps); err != nil {
			return err
		}
		// Of a few instances one would only see what else happens on the machine.
		if added := n - had; added >= 100 {
			kib := float64(before-after) / 1024 / float64(added)
			r.add(Row{
				Name: rowDormant, Service: s.name, CPU: AnyCPU, Value: Dist{P50: kib, P99: kib, Min: kib, N: added, Unit: "KiB"},
				Note: fmt.Sprintf("mean over %d", added),
			})
		}
	}
	return r.unique(s, apps[:min(16, len(apps))])
}

// crowdSizes are the numbers of apps up to most, which is the last.
func crowdSizes(most int) []int {
	var sizes []int
	for _, n := range []int{2, 16, 128, 1000} {
		if n < most {
			sizes = append(sizes, n)
		}
	}
	return append(sizes, most)
}

func (r *run) turns(s *subject, apps []*app) error {
	var times []time.Duration
	next := 0
	began := time.Now()
	err := r.repeat(max(1000, 2*len(apps)), 10_000, func() error {
		a := apps[next%len(apps)]
		next++
		t0 := time.Now()
		if err := a.turn(s.echo, s.reply); err != nil {
			return err
		}
		if err := a.park(); err != nil {
			return err
		}
		times = append(times, time.Since(t0))
		return nil
	})
	if err != nil {
		return err
	}
	rate := float64(len(times)) / time.Since(began).Seconds()
	r.add(Row{
		Name: rowTurn, Service: s.name, CPU: AnyCPU, Value: describe(times),
		Parts: map[string]Dist{"rate": {P50: rate, P99: rate, Min: rate, N: len(times), Unit: "1/s"}},
		Note:  fmt.Sprintf("%d apps: %.0f turns/s", len(apps), rate),
	})
	return nil
}

func (r *run) unique(s *subject, apps []*app) error {
	var sum int64
	for _, a := range apps {
		m, err := a.in.Memory()
		if err != nil {
			return err
		}
		sum += m.Unique
	}
	kib := float64(sum) / 1024 / float64(len(apps))
	r.add(Row{
		Name: rowUnique, Service: s.name, CPU: AnyCPU, Value: Dist{P50: kib, P99: kib, Min: kib, N: len(apps), Unit: "KiB"},
		Note: fmt.Sprintf("mean of %d", len(apps)),
	})
	return nil
}
