package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
	"corsa.dev/corsa/runtime/engine"
)

// standIn is the object that apps get for one that the service has published.
type standIn struct {
	broker   *Broker
	name     string
	uid      int
	ptr      uint64 // by which the service calls its object; 0: not known yet
	object   *binder.Object
	original *binder.Ref // to the adopted process' object, which nobody ever calls

	iface string // guarded by broker.mu; "": not known yet
}

// register makes the stand-in for a service that is being added.
func (b *Broker) register(s servicemanager.Service, ref *binder.Ref) (binder.Binder, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sealed {
		b.log.WithField("name", s.Name).WithField("uid", s.UID).Warn("a name is added after the service has been adopted; it is refused")
		return nil, &binder.Exception{Code: binder.ExIllegalState, Message: "the service has been adopted: it cannot add names any more"}
	}
	if len(b.standIns) > 0 && s.UID != b.uid {
		return nil, &binder.Exception{Code: binder.ExSecurity, Message: "another user's service has the device"}
	}
	in, err := b.newStandIn(s.Name, s.UID)
	if err != nil {
		return nil, err
	}
	in.original = ref.Clone()
	if old := b.standIns[s.Name]; old != nil {
		old.object.Close()
		old.original.Release()
		delete(b.byID, old.object.ID())
	}
	b.uid, b.standIns[s.Name] = s.UID, in
	return in.object, nil
}

func (b *Broker) newStandIn(name string, uid int) (*standIn, error) {
	in := &standIn{broker: b, name: name, uid: uid}
	var err error
	if in.object, err = b.conn.NewRawObject(in); err != nil {
		return nil, err
	}
	b.byID[in.object.ID()] = in
	return in, nil
}

// Registered lists the names that the service has added.
func (b *Broker) Registered() []servicemanager.Service { return b.manager.Services() }

// Seal ends the adding of names, finds out which objects of the service, the process pid, they are, and returns what the
// engine has to know to adopt it. It can be repeated if that fails.
func (b *Broker) Seal(pid int) (*engine.Broker, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.standIns) == 0 {
		return nil, fmt.Errorf("process %d has added no name on %s; way out: let it register with the service manager before it is adopted",
			pid, b.cfg.Device)
	}
	dir, device := b.mount()
	ours, err := binderfs.ReadProcesses(dir, os.Getpid(), device)
	if err != nil {
		return nil, err
	}
	theirs, err := binderfs.ReadProcesses(dir, pid, device)
	if err != nil {
		return nil, err
	}
	ptrs := map[uint64]uint64{}
	for _, p := range theirs {
		for _, n := range p.Nodes {
			ptrs[n.ID] = n.Ptr
		}
	}
	for _, in := range b.standIns {
		in.ptr = 0
		for _, p := range ours {
			for _, r := range p.Refs {
				if ptr, ok := ptrs[r.Node]; ok && r.Handle == in.original.Handle() {
					in.ptr = ptr
				}
			}
		}
		if in.ptr == 0 {
			return nil, fmt.Errorf("the object called %q on %s is not one of process %d; way out: one process has to add all names",
				in.name, b.cfg.Device, pid)
		}
		b.byPtr[in.ptr] = in
	}
	b.sealed = true
	return &engine.Broker{Device: b.cfg.Device, Manager: os.Getpid()}, nil
}

// name is a stand-in in a State.
type name struct {
	Name  string `json:"name"`
	UID   int    `json:"uid"`
	Ptr   uint64 `json:"ptr"`
	Iface string `json:"interface,omitempty"`
}

// State is what Resume of another Broker needs. It does not change after Seal.
func (b *Broker) State() (json.RawMessage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.sealed {
		return nil, errors.New("the broker has no service yet")
	}
	names := []name{}
	for _, in := range b.standIns {
		names = append(names, name{in.name, in.uid, in.ptr, in.iface})
	}
	return json.Marshal(names)
}

// Resume takes over from a Broker that has died, with what State returned then. It has to be called before the service is
// recovered, as its instances publish themselves again. The returned value is for engine.Target.
func (b *Broker) Resume(state json.RawMessage) (*engine.Broker, error) {
	var names []name
	if err := json.Unmarshal(state, &names); err != nil {
		return nil, fmt.Errorf("state of the broker: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sealed = true
	for _, n := range names {
		in, err := b.newStandIn(n.Name, n.UID)
		if err != nil {
			return nil, err
		}
		in.ptr, in.iface = n.Ptr, n.Iface
		b.uid, b.standIns[n.Name], b.byPtr[n.Ptr] = n.UID, in, in
		if err := b.manager.Publish(servicemanager.Service{Name: n.Name, UID: n.UID}, in.object); err != nil {
			return nil, err
		}
	}
	return &engine.Broker{Device: b.cfg.Device, Manager: os.Getpid()}, nil
}
