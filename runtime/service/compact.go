package service

import (
	"context"
	"errors"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/spec"
)

const (
	// compactAfter is how long after its last checkpoint an app counts as idle.
	compactAfter = time.Second
	// compactQueue is for how many apps that is remembered. Others are looked at after their next checkpoint.
	compactQueue = 256
)

// startCompacting has instances' memory put back into huge pages, one instance at a time and when the app is idle, until ctx is
// done.
func (m *Monitor) startCompacting(ctx context.Context) {
	if m.svc.HugePages == spec.HugePagesOff || m.svc.HugePages == "" {
		return
	}
	if mem, err := m.eng.Base().Memory(); err != nil || mem.Huge == 0 {
		return
	}
	queue := make(chan *holding, compactQueue)
	m.compactions = queue
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case h := <-queue:
				m.compactIdle(ctx, h)
			}
		}
	}()
}

// wantCompaction notes that h's app has a new checkpoint. h.mu is held.
func (m *Monitor) wantCompaction(h *holding) {
	h.captured = time.Now()
	if m.compactions == nil || h.compacting {
		return
	}
	select {
	case m.compactions <- h:
		h.compacting = true
	default:
	}
}

// compactIdle waits until h's app may be idle. If it is not, its next checkpoint makes it wait again.
func (m *Monitor) compactIdle(ctx context.Context, h *holding) {
	h.mu.Lock()
	wait := time.Until(h.captured.Add(compactAfter))
	h.mu.Unlock()
	select {
	case <-ctx.Done():
		return
	case <-time.After(wait):
	}
	h.mu.Lock()
	h.compacting = false
	in, ok := h.inst.(engine.Compactor)
	idle := time.Since(h.captured) >= compactAfter
	h.mu.Unlock()
	if !ok || !idle {
		return
	}
	made, err := in.Compact(ctx)
	h.mu.Lock()
	h.size = sized{}
	h.mu.Unlock()
	log := m.log.WithField("app", string(h.app))
	switch {
	case err != nil && ctx.Err() == nil && !errors.Is(err, engine.ErrGone) && !errors.Is(err, engine.ErrHidden):
		log.WithError(err).Warn("cannot make huge pages of the instance's memory")
	case made > 0:
		log.WithField("made", made).Debug("memory of the instance is in huge pages again")
	}
}
