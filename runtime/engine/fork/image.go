package fork

import (
	"encoding/json"
	"errors"
	"sync"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// image is a frozen state: an anchor that nothing shares, and the plan of its descriptors.
type image struct {
	s       *service
	a       *anchor
	plan    *plan
	threads []threadState
	shared  []mapping // shared anonymous mappings, which are copies already
	files   tree
	filesInUse
	signals *signals
	advice  *advice // for instances
	base    bool
	forks   sync.Mutex // branches of one image may overlap, but not its forks
}

type imageHandle struct {
	Anchor  anchorHandle  `json:"anchor"`
	Plan    *plan         `json:"plan"`
	Threads []threadState `json:"threads"`
	Shared  []mapping     `json:"shared,omitempty"`
	Files   tree          `json:"files,omitzero"`
	Maps    []fileMapping `json:"maps,omitempty"`
	CWD     *fdplan.Place `json:"cwd,omitempty"`
	Signals *signals      `json:"signals,omitempty"`
	Advice  *advice       `json:"advice,omitempty"`
}

// Memory implements engine.Image.
func (m *image) Memory() (engine.Memory, error) {
	mem, err := memory(m.a.PID)
	mem.Files = m.files.Bytes
	return mem, err
}

// Handle implements engine.Image.
func (m *image) Handle() json.RawMessage {
	return mustJSON(imageHandle{m.a.handle(), m.plan, m.threads, m.shared, m.files, m.maps, m.cwd, m.signals, m.advice})
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

func (m *image) endNow() error {
	err := m.a.discard()
	m.s.files.discard(m.files, m.s.target.Log)
	return err
}
