package service

import (
	"errors"
	"time"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
)

// enforceBytes measures h's checkpoints and discards the oldest ones until the rest keeps to the budget. Measuring
// walks page tables, so it is done aside, after the checkpoint was acknowledged.
func (m *Monitor) enforceBytes(h *holding) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m.measure(h)
	surplus, err := m.ledger.trim(h.app)
	if err != nil {
		m.log.WithField("app", string(h.app)).WithError(err).Error("cannot keep the history to its budget")
		return
	}
	m.discard(h, surplus)
}

// measure puts the present sizes of h's checkpoints on the ledger.
func (m *Monitor) measure(h *holding) {
	for id, img := range h.images {
		mem, err := img.Memory()
		if err != nil {
			continue // it is found to be gone when it is needed
		}
		unique := mem.Unique + mem.Files
		m.ledger.measured(h.app, id, nil, &unique)
	}
}

// sized is what an instance held when that was last looked at.
type sized struct {
	inst engine.Instance
	cpu  time.Duration // that it had used then; 0: not known
	view *MemoryView
}

// memory is what h's instance, which is not nil, holds; nil if that cannot be told. To look takes a walk of its page tables:
// as long as it has not run and its checkpoints are the same ones, nothing has changed. h.mu is held.
func (h *holding) memory() *MemoryView {
	cpu := cpuTime(h.inst)
	if cpu != 0 && h.size.cpu == cpu && h.size.inst == h.inst {
		return h.size.view
	}
	mem, err := h.inst.Memory()
	if err != nil {
		return nil
	}
	h.size = sized{h.inst, cpu, viewMemory(mem)}
	return h.size.view
}

// difference is what checkpoint id is to be compared with.
type difference struct {
	id, parent instance.ID
	img, from  engine.Image
}

// compare puts on the ledger how many pages of the checkpoint id, or of all if id is "", differ from its parent's. A
// parent that was discarded has been replaced by its own, so what was counted before may have to be counted again. The
// caller does not hold h.mu: reading two processes may take a while, and the app is not to wait for it.
func (m *Monitor) compare(h *holding, id instance.ID) error {
	todo, err := m.differences(h, id)
	if err != nil {
		return err
	}
	for _, d := range todo {
		comparer, ok := d.img.(engine.Comparer)
		if !ok {
			continue
		}
		n, err := comparer.Dirty(d.from)
		if errors.Is(err, engine.ErrHidden) || errors.Is(err, engine.ErrGone) {
			continue // it stays unknown
		}
		if err != nil {
			return err
		}
		h.mu.Lock()
		if img := h.images[d.id]; img != nil && img.Image == d.img {
			img.comparedWith = d.parent
			m.ledger.measured(h.app, d.id, &n, nil)
		}
		h.mu.Unlock()
	}
	return nil
}

// differences lists what is not known yet.
func (m *Monitor) differences(h *holding, id instance.ID) ([]difference, error) {
	history, err := m.ledger.history(h.app)
	if err != nil {
		return nil, err
	}
	var todo []difference
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range history.Checkpoints {
		img, from := h.images[c.ID], m.eng.Base()
		if c.Parent != instance.Base {
			parent := h.images[c.Parent]
			if parent == nil {
				continue
			}
			from = parent.Image
		}
		if img != nil && img.comparedWith != c.Parent && (id == "" || id == c.ID) {
			todo = append(todo, difference{id: c.ID, parent: c.Parent, img: img.Image, from: from})
		}
	}
	return todo, nil
}
