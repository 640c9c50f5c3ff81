package servicemanager

import (
	"fmt"
	"sort"
	"sync"

	"corsa.dev/corsa/binderfs/binder"
)

// MaxName is the length of the longest name that a service can have.
const MaxName = 127

// Service is a service that is published.
type Service struct {
	Name string `json:"name"`
	PID  int    `json:"pid"` // that has added it, as the manager's pid namespace numbers it; 0: not in it
	UID  int    `json:"uid"`
}

// entry is a service or somebody who waits for one, with what has to be undone when it goes.
type entry struct {
	Service
	ref   *binder.Ref   // nil: it is this process' own
	given binder.Binder // what is given to those who look the service up: ref, or what stands in for it
	stop  func()        // ends the death notification
}

func (e *entry) release() {
	if e.ref != nil {
		e.stop()
		e.ref.Release()
	}
}

// registry keeps services and who wants to hear of them.
type registry struct {
	mu       sync.Mutex
	services map[string]*entry
	waiting  map[string][]*entry
}

// checkName accepts the names that Android's service manager does.
func checkName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("name of %d bytes: from 1 to %d are allowed", len(name), MaxName)
	}
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-', r == '.', r == '/':
		default:
			return fmt.Errorf("name %q: only letters, digits and _ - . / are allowed", name)
		}
	}
	return nil
}

// add publishes a service, in place of one that may have its name, and calls tell for each that waits for it.
func (r *registry) add(s Service, ref *binder.Ref, given binder.Binder, tell func(waiting *binder.Ref, service binder.Binder)) error {
	e := &entry{Service: s, ref: ref, given: given}
	r.mu.Lock()
	defer r.mu.Unlock()
	if ref != nil {
		var err error
		if e.stop, err = ref.NotifyDeath(func() { r.drop(e) }); err != nil {
			return err
		}
	}
	if old := r.services[s.Name]; old != nil {
		old.release()
	}
	r.services[s.Name] = e
	for _, w := range r.waiting[s.Name] {
		tell(w.ref, given)
	}
	return nil
}

// drop takes a service out whose process is dead.
func (r *registry) drop(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.services[e.Name] == e {
		delete(r.services, e.Name)
		e.release()
	}
}

// get returns the service of that name, or nil. If it is a *binder.Ref, the caller has to release it.
func (r *registry) get(name string) binder.Binder {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.services[name]
	if e == nil {
		return nil
	}
	if ref, ok := e.given.(*binder.Ref); ok {
		return ref.Clone()
	}
	return e.given
}

// wait has callback told of services of that name, at once if there is one.
func (r *registry) wait(s Service, callback *binder.Ref, tell func(waiting *binder.Ref, service binder.Binder)) error {
	w := &entry{Service: s, ref: callback}
	r.mu.Lock()
	defer r.mu.Unlock()
	stop, err := callback.NotifyDeath(func() { r.remove(w) })
	if err != nil {
		return err
	}
	w.stop = stop
	r.waiting[s.Name] = append(r.waiting[s.Name], w)
	if e := r.services[s.Name]; e != nil {
		tell(callback, e.given)
	}
	return nil
}

func (r *registry) remove(w *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeWaiting(w.Name, func(have *entry) bool { return have == w })
}

// forget ends what wait has begun, and tells whether there was anything.
func (r *registry) forget(name string, callback *binder.Ref) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removeWaiting(name, func(w *entry) bool { return w.ref.Same(callback) })
}

func (r *registry) removeWaiting(name string, match func(*entry) bool) bool {
	found := false
	kept := r.waiting[name][:0]
	for _, w := range r.waiting[name] {
		if match(w) {
			w.release()
			found = true
		} else {
			kept = append(kept, w)
		}
	}
	clear(r.waiting[name][len(kept):])
	if r.waiting[name] = kept; len(kept) == 0 {
		delete(r.waiting, name)
	}
	return found
}

// list returns the services by name.
func (r *registry) list() []Service {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Service, 0, len(r.services))
	for _, e := range r.services {
		all = append(all, e.Service)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

func (r *registry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.services {
		e.release()
	}
	for _, list := range r.waiting {
		for _, w := range list {
			w.release()
		}
	}
	clear(r.services)
	clear(r.waiting)
}
