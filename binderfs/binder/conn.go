package binder

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DefaultBuffer is the size in bytes of the memory for incoming parcels that Android gives its processes.
const DefaultBuffer = 1<<20 - 8192

// Options say how a device is opened. The zero value is good for a program that only calls.
type Options struct {
	// Threads is the greatest number of threads that wait for transactions. 0: the Conn only calls; it can neither publish
	// objects nor be told of deaths. The first thread starts with Open, others as the driver asks for them.
	Threads int
	// Eager starts all of them with Open.
	Eager bool
	// Buffer is the size in bytes of the memory for incoming parcels, rounded up to pages; at most 4 MiB. Half of it is for
	// oneway transactions. 0: DefaultBuffer.
	Buffer int
	// Protocol is the format of parcels: of NewParcel, of replies, and in which Readers read. 0: AIDL3.
	Protocol Protocol
	// Trace is called for each transaction, on the thread that has it. It must be quick and keep no bytes. May be nil.
	Trace func(*Event)
}

// Conn is one open of a Binder device. Its methods may be called by several goroutines at once.
type Conn struct {
	path     string
	fd       int
	protocol Protocol
	mapping  *mapping
	trace    func(*Event)
	loopers  int // the greatest number of threads

	closing atomic.Bool
	users   atomic.Int64 // calls under way
	idle    chan struct{}
	looping sync.WaitGroup
	threads threads
	failure atomic.Pointer[error]
	failed  chan struct{} // closed with the first failure

	mu      sync.RWMutex // of what follows
	lastID  uint64
	objects map[uint64]*Object
	remotes map[uint32]*remote
	manager remote             // handle 0
	deaths  map[uint64]*remote // by cookie
}

// Open opens the Binder device at path. The Conn has to be closed. The error is ErrVersion if the driver speaks another
// version of the protocol.
func Open(path string, o Options) (*Conn, error) {
	if o.Threads < 0 || o.Buffer < 0 {
		return nil, fmt.Errorf("open binder device %s: negative number of threads or bytes", path)
	}
	if o.Buffer == 0 {
		o.Buffer = DefaultBuffer
	}
	if o.Protocol == 0 {
		o.Protocol = AIDL3
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open binder device %s: %w", path, err)
	}
	c := &Conn{
		path: path, fd: fd, protocol: o.Protocol, trace: o.Trace, loopers: o.Threads, idle: make(chan struct{}, 1), failed: make(chan struct{}),
		objects: map[uint64]*Object{}, remotes: map[uint32]*remote{}, deaths: map[uint64]*remote{},
	}
	if err := c.setUp(o); err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("open binder device %s: %w", path, err)
	}
	for range o.initial() {
		c.startLooper(bcEnterLooper)
	}
	return c, nil
}

func (c *Conn) setUp(o Options) error {
	var version int32
	if err := ioctl(c.fd, ioctlVersion, unsafe.Pointer(&version)); err != nil {
		if errors.Is(err, unix.ENOTTY) {
			return errors.New("it is no binder device")
		}
		return fmt.Errorf("ask for the version: %w", err)
	}
	if version != protocolVersion {
		return fmt.Errorf("%w: %d instead of %d", ErrVersion, version, protocolVersion)
	}
	page := unix.Getpagesize()
	var err error
	if c.mapping, err = newMapping(c.fd, (o.Buffer+page-1)&^(page-1)); err != nil {
		return err
	}
	// The driver counts only those that it has asked for.
	more := uint32(o.Threads - o.initial())
	if err := ioctl(c.fd, ioctlSetMaxThreads, unsafe.Pointer(&more)); err != nil {
		return errors.Join(fmt.Errorf("set the number of threads: %w", err), c.mapping.close())
	}
	return nil
}

// initial is how many threads begin with the Conn.
func (o *Options) initial() int {
	if o.Eager {
		return o.Threads
	}
	return min(o.Threads, 1)
}

// Path returns the path by which the device was opened.
func (c *Conn) Path() string { return c.path }

// NewParcel returns an empty parcel in the Conn's protocol.
func (c *Conn) NewParcel() *Parcel { return NewParcel(c.protocol) }

// Close closes the device: peers see the objects of the Conn die. It waits for the handlers that run, so that a handler must
// not call it; calls that wait for a reply end with ErrClosed. Replies that are still held read as zeroes.
func (c *Conn) Close() error {
	if c.closing.Swap(true) {
		return nil
	}
	// Whoever enters the driver after this either sees closing or is woken.
	err := c.wake()
	if c.users.Load() > 0 {
		<-c.idle
	}
	c.looping.Wait()
	return errors.Join(err, c.mapping.close(), unix.Close(c.fd))
}

// Err returns the first failure of the device that no call could report, e.g. on a thread that waits for transactions.
func (c *Conn) Err() error {
	if p := c.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// note keeps the first error that has nobody to be returned to.
func (c *Conn) note(err error) {
	if err != nil && c.failure.CompareAndSwap(nil, &err) {
		close(c.failed)
	}
}

// Failed is closed when Err has something to tell.
func (c *Conn) Failed() <-chan struct{} { return c.failed }

// enter begins a use of the descriptor that Close waits for.
func (c *Conn) enter() error {
	c.users.Add(1)
	if c.closing.Load() {
		c.leave()
		return ErrClosed
	}
	return nil
}

func (c *Conn) leave() {
	if c.users.Add(-1) == 0 && c.closing.Load() {
		select {
		case c.idle <- struct{}{}:
		default:
		}
	}
}

// wake makes all threads of the Conn return from the driver. Closing any descriptor of an open device does: the driver must
// not keep threads in it that might hold the last reference. A thread that is just about to wait returns as well.
func (c *Conn) wake() error {
	fd, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("wake threads in binder device %s: %w", c.path, err)
	}
	return unix.Close(fd)
}

// BecomeContextManager makes h the object that everybody on this device reaches as handle 0. The error is ErrManagerTaken
// if there is one. The device keeps it until the Conn is closed.
func (c *Conn) BecomeContextManager(descriptor string, h Handler) (*Object, error) {
	o, err := c.NewObject(descriptor, h)
	if err != nil {
		return nil, err
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	var p Parcel
	p.flatObject(typeBinder, objectPriorityMask|objectAcceptsFDs, o.id, o.id)
	err = ioctl(c.fd, ioctlSetContextMgrExt, unsafe.Pointer(unsafe.SliceData(p.data)))
	if err == nil {
		return o, nil
	}
	o.Close()
	if errors.Is(err, unix.EBUSY) {
		err = ErrManagerTaken
	}
	return nil, fmt.Errorf("become context manager of %s: %w", c.path, err)
}

// ContextManager returns a reference to the device's context manager, whether there is one or not.
func (c *Conn) ContextManager() *Ref { return &Ref{conn: c, remote: &c.manager} }

// Ping asks the context manager whether it is there.
func (c *Conn) Ping(ctx context.Context) error { return c.ContextManager().Ping(ctx) }

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
