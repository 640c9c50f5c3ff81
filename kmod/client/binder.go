package client

import (
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client/internal/uapi"
)

var (
	// ErrNoBinder says that there is no Binder driver, or that the process has not mapped a device of it.
	ErrNoBinder = errors.New("the process uses no Binder device; way out: attach it when it has opened and mapped its devices")
	// ErrNoGate says that the module has no Binder gate, or that the session's is not enabled.
	ErrNoGate = errors.New("there is no Binder gate; way out: build corsa.ko with CORSA_BINDER_HEADERS, and enable the gate first")
	// ErrBinderDriver says that the gate does not fit the driver.
	ErrBinderDriver = errors.New("the Binder driver is not the one that corsa.ko was built for; way out: see the kernel's log, and build corsa.ko with that driver's headers")
)

var gateErrors = map[unix.Errno]error{
	unix.ENODEV: ErrNoBinder, unix.EOPNOTSUPP: ErrNoGate, unix.ENXIO: ErrNoGate, unix.ENOSYS: ErrBinderDriver, unix.EALREADY: ErrBusy,
}

// gate carries a request of the Binder gate, whose errors have their own meaning.
func (s *Session) gate(req Request, arg unsafe.Pointer, object string) error {
	_, errno := s.w.Ioctl(s.fd, req, arg)
	if err, ok := gateErrors[errno]; ok {
		return &Error{Op: req.String(), Object: object, Errno: errno, err: err}
	}
	return failure(req, object, errno)
}

// BinderKey says what names the app that a Binder transaction comes from.
type BinderKey uint32

// The kinds of keys, as in the header.
const (
	KeyEUID   BinderKey = 1 + iota // effective uid, in the initial user namespace
	KeyPID                         // process, in the initial pid namespace
	KeyCgroup                      // cgroup v2 id
)

// BinderHook is how the gate gets between the driver and its users.
type BinderHook uint32

// The hooks, as in the header.
const (
	HookKprobe BinderHook = 1 + iota // an unchanged driver, by a kprobe
	HookDriver                       // a driver with a place for it
)

func (h BinderHook) String() string {
	switch h {
	case HookKprobe:
		return "kprobe"
	case HookDriver:
		return "driver"
	}
	return fmt.Sprintf("hook %d", uint32(h))
}

// BinderGate says how transactions are held and named.
type BinderGate struct {
	Key BinderKey
	// Origin takes the first app of a chain of calls, not the one that calls the process. For KeyEUID.
	Origin bool
	// Wait is the longest that a transaction is held. 0: five seconds.
	Wait time.Duration
}

// EnableBinder puts the gate between the process and its Binder devices, before the first copy. It returns how many
// devices were found. The errors to test for are ErrNoBinder, ErrNoGate, ErrBinderDriver and ErrBusy (there
// are copies already, or it is enabled).
func (s *Session) EnableBinder(g BinderGate) (devices int, hook BinderHook, err error) {
	a := uapi.BinderEnable{Key: uint32(g.Key), WaitNS: uint64(g.Wait)}
	if g.Origin {
		a.Flags = 1
	}
	a.Size = uint32(unsafe.Sizeof(a))
	if err := s.gate(uapi.ReqBinderEnable, unsafe.Pointer(&a), ""); err != nil {
		return 0, 0, err
	}
	return int(a.Devices), BinderHook(a.Hook), nil
}

// RouteFlags change a route.
type RouteFlags uint32

// RoutePause holds the transactions of an app that is due, until Route is called again. Routes reports RouteWanted
// where a transaction waits for a route or for its record, and RouteDue.
const (
	RoutePause  RouteFlags = 1 << 0
	RouteWanted RouteFlags = 1 << 16
	RouteDue    RouteFlags = 1 << 17
)

// Route sends the transactions of key to instance id; None: nowhere. every is after how many of them there is an
// EventBinderDue, 0: never. The errors to test for are ErrNoRecord, ErrState (it is an image), ErrFull.
func (s *Session) Route(key uint64, id uint32, flags RouteFlags, every int) error {
	a := uapi.BinderRoute{Flags: uint32(flags), Key: key, ID: id, Every: uint32(every)}
	a.Size = uint32(unsafe.Sizeof(a))
	return s.gate(uapi.ReqBinderRoute, unsafe.Pointer(&a), record(id))
}

// Route is where the transactions of an app go.
type Route struct {
	Key          uint64
	ID           uint32 // None: nowhere
	Flags        RouteFlags
	Every        int
	Since        int // transactions since Route or the last EventBinderDue
	Transactions uint64
	Oneway       uint64 // of them
}

// Routes lists all keys that have a route or have wanted one.
func (s *Session) Routes() ([]Route, error) {
	for room := 64; ; {
		buf := make([]uapi.BinderRouteInfo, room)
		a := uapi.BinderRoutes{Cap: uint32(room)}
		var pin runtime.Pinner
		pin.Pin(&buf[0])
		a.Size, a.Routes = uint32(unsafe.Sizeof(a)), uint64(uintptr(unsafe.Pointer(&buf[0])))
		err := s.gate(uapi.ReqBinderRoutes, unsafe.Pointer(&a), "")
		pin.Unpin()
		if err != nil {
			return nil, err
		}
		if int(a.Count) > room {
			room = int(a.Count) + 16
			continue
		}
		routes := make([]Route, 0, a.Count)
		for _, r := range buf[:a.Count] {
			routes = append(routes, Route{
				Key: r.Key, ID: r.ID, Flags: RouteFlags(r.Flags), Every: int(r.Every), Since: int(r.Since),
				Transactions: r.Transactions, Oneway: r.Oneway,
			})
		}
		return routes, nil
	}
}

// BinderStats counts since EnableBinder; InProgress and Waiting are of now.
type BinderStats struct {
	InProgress, Waiting   int
	Transactions          uint64 // that came in, without nested ones
	Oneway                uint64 // of them
	Nested, Outgoing      uint64
	Waits, Switches       uint64
	Timeouts, Interrupted uint64
	Aborted               uint64 // ended by a crash
	BufferFaults          uint64
	Waited, LongestWait   time.Duration
}

// BinderStats reads the counters of the gate.
func (s *Session) BinderStats() (BinderStats, error) {
	var a uapi.BinderStats
	a.Size = uint32(unsafe.Sizeof(a))
	if err := s.gate(uapi.ReqBinderStats, unsafe.Pointer(&a), ""); err != nil {
		return BinderStats{}, err
	}
	return BinderStats{
		InProgress: int(a.InProgress), Waiting: int(a.Waiting), Transactions: a.Transactions, Oneway: a.Oneway, Nested: a.Nested,
		Outgoing: a.Outgoing, Waits: a.Waits, Switches: a.Switches, Timeouts: a.Timeouts, Interrupted: a.Interrupted,
		Aborted: a.Aborted, BufferFaults: a.BufferFaults, Waited: time.Duration(a.WaitNS), LongestWait: time.Duration(a.LongestWaitNS),
	}, nil
}
