package kmod

import (
	"encoding/json"
	"errors"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// image is an image record and the plan of its descriptors, which are closed in it.
type image struct {
	s    *service
	id   uint32
	plan *fdplan.Plan
	base bool
}

var _ engine.Image = (*image)(nil)

type imageHandle struct {
	ID   uint32       `json:"id"`
	Plan *fdplan.Plan `json:"plan"`
}

// Memory implements engine.Image.
func (m *image) Memory() (engine.Memory, error) { return m.s.memory(m.id) }

// Handle implements engine.Image.
func (m *image) Handle() json.RawMessage { return mustJSON(imageHandle{m.id, m.plan}) }

var errBase = errors.New("the base cannot be discarded: every instance begins there")

// Discard implements engine.Image.
func (m *image) Discard() error {
	if m.base {
		return errBase
	}
	m.s.mu.Lock()
	delete(m.s.images, m.id)
	m.s.mu.Unlock()
	return m.free()
}

func (m *image) free() error {
	err := m.s.session.Discard(m.id)
	if errors.Is(err, client.ErrNoRecord) || errors.Is(err, client.ErrOver) {
		return nil
	}
	return translate(m.s.process.PID, err)
}
