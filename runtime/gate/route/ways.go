package route

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Set leads the app of that uid to the listeners to, one for each public name; "" leaves that one alone. connect() sees the
// old way or the new one, never a mixture.
func (r *Router) Set(uid uint32, to []string) error {
	if len(to) > r.public {
		return fmt.Errorf("route of uid %d: %d listeners for %d public names", uid, len(to), r.public)
	}
	names, err := parseNames(to)
	if err == nil {
		err = r.objects.Routes.Update(uid, &programWay{To: names}, ebpf.UpdateLock)
	}
	if err != nil {
		return fmt.Errorf("route of uid %d: %w", uid, err)
	}
	return nil
}

// Block has the app arrive at the public sockets, and keeps it from claiming a spare. There is no way back to an app that
// is not known.
func (r *Router) Block(uid uint32) error { return r.Set(uid, nil) }

// Reserve blocks an app that is not known. For one that is it returns its way, nil if it is blocked. An app that is to get
// an instance which is not a spare has to be reserved first: it could claim a spare meanwhile.
func (r *Router) Reserve(uid uint32) (way []string, err error) {
	err = r.objects.Routes.Update(uid, &programWay{}, ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) {
		return r.Way(uid)
	}
	if err != nil {
		return nil, fmt.Errorf("route of uid %d: %w", uid, err)
	}
	return nil, nil
}

// Way returns what Set or a claim has made the app's way. It is nil if the app is blocked or not known.
func (r *Router) Way(uid uint32) ([]string, error) {
	var way programWay
	err := r.objects.Routes.LookupWithFlags(uid, &way, ebpf.LookupLock)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("route of uid %d: %w", uid, err)
	}
	return r.texts(&way.To), nil
}

// Used is how many calls of connect() have gone the app's way since it was set. Each may still be on it.
func (r *Router) Used(uid uint32) (uint32, error) {
	var way programWay
	if err := r.objects.Routes.LookupWithFlags(uid, &way, ebpf.LookupLock); err != nil {
		return 0, fmt.Errorf("route of uid %d: %w", uid, err)
	}
	return way.Used, nil
}

// Ways returns all ways by uid; that of a blocked app is nil.
func (r *Router) Ways() (map[uint32][]string, error) {
	all := map[uint32][]string{}
	var uid uint32
	var way programWay
	it := r.objects.Routes.Iterate()
	for it.Next(&uid, &way) {
		all[uid] = r.texts(&way.To)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	return all, nil
}

func (r *Router) texts(to *[MaxPublic]programName) []string {
	for i := range to {
		if to[i].Len != 0 {
			return texts(to, r.public)
		}
	}
	return nil
}
