package instance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrUnknownApp says that the service has never had such an app.
	ErrUnknownApp = errors.New("no such app")
	// ErrNoBase says that the service has not been adopted yet, or that it has been already.
	ErrNoBase = errors.New("the base is set exactly once, before anything else")
)

// Limits bound what a Model keeps. They are not part of its state: a journal may be replayed under others.
type Limits struct {
	Count     int   // checkpoints per app; 0 means no limit
	Bytes     int64 // unique bytes of one app's checkpoints; 0 means no limit
	CrashLoop CrashLoop
}

// Model is one service: its base, its apps, their instances and checkpoints.
type Model struct {
	Limits Limits

	seed string
	seq  uint64
	base *Checkpoint
	apps map[App]*entry
}

// New makes an empty model and the record that opens its journal. seed is anything that differs from service to
// service and run to run, such as the container id and the time: checkpoint ids are derived from it.
func New(seed string, now time.Time, limits Limits) (*Model, Record) {
	m := Blank(limits)
	r, err := m.do(Record{Kind: KindOpen, Seed: seed}, now)
	if err != nil {
		panic(err) // an empty model takes this record
	}
	return m, r
}

// Blank makes the model to which a journal is applied; see Replay.
func Blank(limits Limits) *Model {
	return &Model{Limits: limits, apps: map[App]*entry{}}
}

// do completes and applies a record.
func (m *Model) do(r Record, now time.Time) (Record, error) {
	// All as it reads back from a journal.
	r.Time = now.UTC().Round(0)
	for _, text := range []*string{&r.Trigger, &r.Reason, &r.Seed} {
		*text = strings.ToValidUTF8(*text, "\uFFFD")
	}
	if len(r.Handle) > 0 {
		var compact bytes.Buffer
		if err := json.Compact(&compact, r.Handle); err != nil {
			return Record{}, fmt.Errorf("record %q: its handle is not JSON: %w", r.Kind, err)
		}
		r.Handle = compact.Bytes()
	}
	if err := m.Apply(r); err != nil {
		return Record{}, err
	}
	return r, nil
}

// SetBase records that the service was adopted. The base has no owner and is never discarded.
func (m *Model) SetBase(now time.Time, handle json.RawMessage, unique *int64) (Record, error) {
	return m.do(Record{Kind: KindBase, Handle: handle, UniqueBytes: unique}, now)
}

// Branch records the first instance of an app, or the next one after its instance is gone, branched from the
// checkpoint from. A new app comes into being by it.
func (m *Model) Branch(now time.Time, app App, from ID, handle json.RawMessage) (Record, error) {
	return m.do(Record{Kind: KindBranch, App: app, ID: from, Handle: handle}, now)
}

// Restore records that a new instance, branched from the checkpoint to, took the place of the app's former one,
// whatever state that was in. Checkpoints that follow are children of to. manual says that somebody asked for it,
// which ends a quarantine; without it a quarantined app is not restored.
func (m *Model) Restore(now time.Time, app App, to ID, handle json.RawMessage, reason string, manual bool) (Record, error) {
	return m.do(Record{Kind: KindRestore, App: app, ID: to, Handle: handle, Reason: reason, Manual: manual}, now)
}

// SetHandle records that the engine's handle of a live instance changed.
func (m *Model) SetHandle(now time.Time, app App, handle json.RawMessage) (Record, error) {
	return m.do(Record{Kind: KindHandle, App: app, Handle: handle}, now)
}

// Captured is what the caller knows of a checkpoint that the engine took.
type Captured struct {
	Trigger      string
	Transactions uint64 // answered to the app until then
	DirtyPages   *int64 // nil if unknown
	UniqueBytes  *int64 // nil if unknown
	Handle       json.RawMessage
}

// Checkpoint records a checkpoint of the app's live instance as the newest of its history and gives it an id.
// It discards nothing; see Trim.
func (m *Model) Checkpoint(now time.Time, app App, c Captured) (Checkpoint, Record, error) {
	e, err := m.entry(app)
	if err != nil {
		return Checkpoint{}, Record{}, err
	}
	seq := m.seq + 1
	r, err := m.do(Record{
		Kind: KindCheckpoint, App: app, ID: m.newID(seq), Parent: e.head, Seq: seq, Trigger: c.Trigger,
		Transactions: c.Transactions, DirtyPages: c.DirtyPages, UniqueBytes: c.UniqueBytes, Handle: c.Handle,
	}, now)
	if err != nil {
		return Checkpoint{}, Record{}, err
	}
	return e.checkpoints[r.ID].clone(), r, nil
}

// newID derives the id of the seq-th checkpoint.
func (m *Model) newID(seq uint64) ID {
	for nonce := 0; ; nonce++ {
		sum := sha256.Sum256([]byte(m.seed + "\x00" + strconv.FormatUint(seq, 10) + "\x00" + strconv.Itoa(nonce)))
		id := ID(hex.EncodeToString(sum[:])[:idLength])
		if !m.taken(id) {
			return id
		}
	}
}

func (m *Model) taken(id ID) bool {
	for _, e := range m.apps {
		if e.checkpoints[id] != nil {
			return true
		}
	}
	return false
}

// Measure records sizes of a checkpoint that were not known when it was taken, or that have changed since: what
// is unique to it grows when a neighbour goes. nil leaves a size as it is.
func (m *Model) Measure(now time.Time, app App, id ID, dirtyPages, uniqueBytes *int64) (Record, error) {
	return m.do(Record{Kind: KindSize, App: app, ID: id, DirtyPages: dirtyPages, UniqueBytes: uniqueBytes}, now)
}

// Count records how many transactions have been answered to the app. It never goes back.
func (m *Model) Count(now time.Time, app App, transactions uint64) (Record, error) {
	return m.do(Record{Kind: KindCount, App: app, Transactions: transactions}, now)
}

// Crash records that the app's instance died by itself. If that makes a crash loop under the limits, the app is
// quarantined; then the second record says so. The caller has both to write to the journal.
func (m *Model) Crash(now time.Time, app App, c Crash) ([]Record, error) {
	r, err := m.do(Record{Kind: KindCrash, App: app, Transactions: c.Transactions, Signal: c.Signal, Code: c.Code}, now)
	if err != nil {
		return nil, err
	}
	records := []Record{r}
	e := m.apps[app]
	if reason := e.loop(r.Time, m.Limits.CrashLoop); reason != "" {
		if r, err = m.Quarantine(now, app, reason); err != nil {
			return records, err
		}
		records = append(records, r)
	}
	return records, nil
}

// Quarantine records that nothing runs for the app until it is restored by hand.
func (m *Model) Quarantine(now time.Time, app App, reason string) (Record, error) {
	return m.do(Record{Kind: KindQuarantine, App: app, Reason: reason}, now)
}

// Lost records that the app's instance is gone for another reason than a crash: a monitor that took over did not
// find it, or policy ended it.
func (m *Model) Lost(now time.Time, app App, reason string) (Record, error) {
	return m.do(Record{Kind: KindLost, App: app, Reason: reason}, now)
}

// Evict records that the app's live instance was ended to make room. Its state is that of the checkpoint that it descends from, the
// head, from which the app's next request gets a new one: the caller has seen to that.
func (m *Model) Evict(now time.Time, app App, reason string) (Record, error) {
	return m.do(Record{Kind: KindEvict, App: app, Reason: reason}, now)
}

// Forget records that an app is gone for good and returns its checkpoints, which the caller frees.
func (m *Model) Forget(now time.Time, app App) ([]Checkpoint, Record, error) {
	e, err := m.entry(app)
	if err != nil {
		return nil, Record{}, err
	}
	r, err := m.do(Record{Kind: KindForget, App: app}, now)
	if err != nil {
		return nil, Record{}, err
	}
	return clones(e.order), r, nil
}

// Move notes that the app's instance was activated, parked or made speculative. It is not recorded: a monitor that
// takes over asks the engine, and after a replay a live instance counts as dormant. Move does not allocate
// unless the move is illegal, which is a *TransitionError.
func (m *Model) Move(app App, to State) error {
	e := m.apps[app]
	if e == nil {
		return m.unknown(app)
	}
	if !to.Live() || !e.state.Live() {
		return &TransitionError{App: app, From: e.state, To: to}
	}
	return e.move(app, to)
}

// App returns what is known of an app.
func (m *Model) App(app App) (Instance, error) {
	e, err := m.entry(app)
	if err != nil {
		return Instance{}, err
	}
	return e.view(app), nil
}

// Apps returns all apps, sorted by key.
func (m *Model) Apps() []Instance {
	apps := make([]Instance, 0, len(m.apps))
	for _, app := range slices.Sorted(maps.Keys(m.apps)) {
		apps = append(apps, m.apps[app].view(app))
	}
	return apps
}

// Known is how many apps there are.
func (m *Model) Known() int { return len(m.apps) }

// Live is how many apps have an instance.
func (m *Model) Live() int {
	n := 0
	for _, e := range m.apps {
		if e.state.Live() {
			n++
		}
	}
	return n
}

// Base returns the base, and false if the service has not been adopted.
func (m *Model) Base() (Checkpoint, bool) {
	if m.base == nil {
		return Checkpoint{}, false
	}
	return m.base.clone(), true
}

func (m *Model) entry(app App) (*entry, error) {
	if e := m.apps[app]; e != nil {
		return e, nil
	}
	return nil, m.unknown(app)
}

func (m *Model) unknown(app App) error {
	return fmt.Errorf("%s: %w; `corsa apps` lists those there are", app, ErrUnknownApp)
}

func (c Crash) cause() string {
	if c.Signal != 0 {
		return "signal " + strconv.Itoa(c.Signal)
	}
	return "exit code " + strconv.Itoa(c.Code)
}

func clones(list []*Checkpoint) []Checkpoint {
	out := make([]Checkpoint, len(list))
	for i, c := range list {
		out[i] = c.clone()
	}
	return out
}
