package fork

import (
	"encoding/json"
	"errors"

	"corsa.dev/corsa/runtime/engine"
)

// image is a frozen state: an anchor that nothing shares, and the plan of its descriptors.
type image struct {
	s       *service
	a       *anchor
	plan    *plan
	threads []threadState
	shared  []mapping // shared anonymous mappings, which are copies already
	base    bool
}

type imageHandle struct {
	Anchor  anchorHandle  `json:"anchor"`
	Plan    *plan         `json:"plan"`
	Threads []threadState `json:"threads"`
	Shared  []mapping     `json:"shared,omitempty"`
}

// Memory implements engine.Image.
func (m *image) Memory() (engine.Memory, error) { return memory(m.a.PID) }

// Handle implements engine.Image.
func (m *image) Handle() json.RawMessage {
	return mustJSON(imageHandle{m.a.handle(), m.plan, m.threads, m.shared})
}

var errBase = errors.New("the base cannot be discarded: every instance begins there")

// Discard implements engine.Image.
func (m *image) Discard() error {
	if m.base {
		return errBase
	}
	m.s.forget(m)
	return m.endNow()
}

func (m *image) endNow() error { return m.a.discard() }
