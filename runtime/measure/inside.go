package measure

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/kmod"
)

// inside is what the kernel module times itself while something else is measured; nil with other engines.
type inside struct {
	svc    engine.Service
	before *client.Stats
}

// startInside begins to record the durations of single swaps.
func (r *run) startInside(s *subject) (*inside, error) {
	if r.engine.Name() != kmod.New().Name() {
		return nil, nil
	}
	before, err := kmod.Stats(s.svc)
	if err != nil {
		return nil, err
	}
	return &inside{s.svc, before}, kmod.StartSamples(s.svc, client.HistSwap)
}

// rows adds what has been recorded. pipe is the round trip of a byte through two pipes at the same placement.
func (x *inside) rows(r *run, s *subject, cpu string, pipe Dist) error {
	if x == nil {
		return nil
	}
	swaps, err := kmod.Samples(x.svc, client.HistSwap)
	if err == nil && len(swaps) == 0 {
		err = errors.New("the kernel module has recorded no swap of a thread")
	}
	if err != nil {
		return err
	}
	after, err := kmod.Stats(x.svc)
	if err != nil {
		return err
	}
	oneWay := Dist{P50: pipe.P50 / 2, P99: pipe.P99 / 2, Min: pipe.Min / 2, N: pipe.N, Unit: pipe.Unit}
	note := fmt.Sprintf("%s, %d hidden EINTRs", threads(s.threads), after.HiddenEINTR-x.before.HiddenEINTR)
	r.add(Row{Name: rowSwap, Service: s.name, CPU: cpu, Value: describe(swaps), Note: note}.ratio("pipe, one way", oneWay, targetSwap))
	for _, h := range []struct {
		row  string
		kind client.HistKind
	}{{rowSwapMM, client.HistSwapMM}, {rowKernel, client.HistActivate}} {
		hist := after.Hist[h.kind].Minus(x.before.Hist[h.kind])
		r.add(Row{Name: h.row, Service: s.name, CPU: cpu, Value: bounds(&hist), Note: fmt.Sprintf("mean %.1f; bounds of a histogram", us(hist.Mean()))})
	}
	return nil
}

func threads(n int) string {
	if n == 1 {
		return "1 thread"
	}
	return fmt.Sprintf("%d threads", n)
}

func us(d time.Duration) float64 { return float64(d) / 1e3 }

// bounds are upper bounds: a histogram of powers of two does not tell more. The least one is that of its first bucket.
func bounds(h *client.Histogram) Dist {
	return Dist{P50: us(h.Quantile(0.5)), P99: us(h.Quantile(0.99)), Min: us(h.Quantile(0)), N: int(h.Count()), Unit: "µs"}
}

// primitives measures what the kernel itself takes for its cheapest things, to compare with on any machine.
func (r *run) primitives() (err error) {
	r.engine = nil
	defer func() { err = errors.Join(err, r.cpus.self(AnyCPU)) }()
	if err := r.cpus.self(PinnedCPU); err != nil {
		return err
	}
	const batch = 100 // the clock is no cheaper than the call
	var calls []time.Duration
	for range 1000 {
		t := time.Now()
		for range batch {
			unix.Getppid()
		}
		calls = append(calls, time.Since(t)/batch)
	}
	r.add(Row{Name: rowNull, CPU: PinnedCPU, Value: describe(calls), Note: fmt.Sprintf("getppid, means of %d", batch)})
	p := &pingPong{}
	if err := r.pingPong(p); err != nil {
		return err
	}
	d := describe(p.times)
	r.add(Row{
		Name: rowPipe, CPU: PinnedCPU, Value: Dist{P50: d.P50 / 2, P99: d.P99 / 2, Min: d.Min / 2, N: d.N, Unit: d.Unit}, Note: "half of a ping-pong",
	})
	return nil
}
