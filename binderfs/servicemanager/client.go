package servicemanager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"corsa.dev/corsa/binderfs/binder"
)

// ErrNotFound says that no service of that name is published.
var ErrNotFound = errors.New("no such service")

// Client asks the service manager of a device, ours or another.
type Client struct {
	conn    *binder.Conn
	variant Variant
}

// NewClient returns a Client for the context manager of the device that conn is open on. conn has to have been opened with
// the Protocol of the variant, and stays the caller's.
func NewClient(conn *binder.Conn, v Variant) *Client { return &Client{conn: conn, variant: v} }

// Ping asks whether there is a service manager. The error is binder.ErrDead if there is none.
func (c *Client) Ping(ctx context.Context) error { return c.conn.Ping(ctx) }

// call sends a request and reads the exception with which a generated interface's reply begins.
func (c *Client) call(ctx context.Context, m method, p *binder.Parcel, reply *binder.Reply) error {
	if err := c.conn.ContextManager().Transact(ctx, c.variant.code(m), p, reply); err != nil {
		return err
	}
	if c.variant.generated() {
		return reply.Exception()
	}
	return nil
}

func (c *Client) request() *binder.Parcel {
	p := c.conn.NewParcel()
	p.WriteInterfaceToken(Interface)
	return p
}

// Get returns a reference to the service, which the caller has to release. The error is ErrNotFound if there is none.
func (c *Client) Get(ctx context.Context, name string) (*binder.Ref, error) {
	p := c.request()
	p.WriteString16(name)
	var reply binder.Reply
	defer reply.Release()
	if err := c.call(ctx, checkService, p, &reply); err != nil {
		return nil, fmt.Errorf("get service %q: %w", name, err)
	}
	ref, err := c.readService(&reply)
	if err != nil {
		return nil, fmt.Errorf("get service %q: %w", name, err)
	}
	return ref, nil
}

// readService reads a nullable binder or, from Android 15 on, perhaps a union that has one: the interface has changed within
// the life of that version.
func (c *Client) readService(r *binder.Reply) (*binder.Ref, error) {
	b := r.Binder()
	if r.Err() != nil && c.variant >= AIDL5 {
		r.Rewind()
		if err := r.Exception(); err != nil {
			return nil, err
		}
		b = readUnion(&r.Reader)
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	ref, ok := b.(*binder.Ref)
	switch {
	case b == nil:
		return nil, ErrNotFound
	case !ok:
		return nil, errors.New("it is an object of this very connection")
	}
	return ref, nil
}

// readUnion reads a Service: its binder is the same in the form of Android 15 and, within a parcelable, of Android 16.
func readUnion(r *binder.Reader) binder.Binder {
	r.Int32() // not null
	if r.Int32() != tagServiceWithMetadata {
		return nil
	}
	probe := *r
	if probe.Int32() == parcelableNotNull && probe.Int32() > 0 && probe.Err() == nil {
		r.Int32()
		r.Int32()
	}
	return r.Binder()
}

// Wait returns a reference to the service as soon as it is there, or the error of ctx. Where the variant has no notification
// (before AIDL3), and where conn has no threads, it asks again and again.
func (c *Client) Wait(ctx context.Context, name string) (*binder.Ref, error) {
	told := make(chan struct{}, 1)
	stop, err := c.Watch(ctx, name, func() {
		select {
		case told <- struct{}{}:
		default:
		}
	})
	pause := 20 * time.Millisecond
	if err == nil {
		defer stop()
		pause = time.Second
	} else if !errors.Is(err, binder.ErrNoThreads) && !errors.Is(err, errNoNotification) {
		return nil, err
	}
	for {
		ref, err := c.Get(ctx, name)
		if !errors.Is(err, ErrNotFound) {
			return ref, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for service %q: %w", name, ctx.Err())
		case <-told:
		case <-time.After(pause):
		}
	}
}

var errNoNotification = errors.New("service manager does not notify")

// Watch has f called, on a thread of the Conn, whenever a service of that name is added, and at once if there is one. stop
// ends it. It needs AIDL3 or newer, and a Conn with threads.
func (c *Client) Watch(ctx context.Context, name string, f func()) (stop func(), err error) {
	if c.variant.code(registerForNotifications) == 0 {
		return nil, fmt.Errorf("watch service %q: %w before %v", name, errNoNotification, AIDL3)
	}
	callback, err := c.conn.NewObject(callbackInterface, binder.HandlerFunc(func(tx *binder.Transaction, _ *binder.Parcel) error {
		if err := tx.Data.Enforce(callbackInterface); err != nil {
			return err
		}
		if tx.Code == onRegistration && tx.Data.String16() == name {
			f()
		}
		return tx.Data.Err()
	}))
	if err != nil {
		return nil, fmt.Errorf("watch service %q: %w", name, err)
	}
	if err := c.notify(ctx, registerForNotifications, name, callback); err != nil {
		callback.Close()
		return nil, fmt.Errorf("watch service %q: %w", name, err)
	}
	return func() {
		// If the service manager cannot be told any more, there is nobody who would call.
		_ = c.notify(context.Background(), unregisterForNotifications, name, callback)
		callback.Close()
	}, nil
}

func (c *Client) notify(ctx context.Context, m method, name string, callback *binder.Object) error {
	p := c.request()
	p.WriteString16(name)
	p.WriteBinder(callback)
	var reply binder.Reply
	defer reply.Release()
	return c.call(ctx, m, p, &reply)
}

// Add publishes an object under a name, in place of one that may have it.
func (c *Client) Add(ctx context.Context, name string, o *binder.Object) error {
	p := c.request()
	p.WriteString16(name)
	p.WriteBinder(o)
	p.WriteBool(false)
	if c.variant != AIDL {
		p.WriteInt32(dumpPriorityDefault)
	}
	var reply binder.Reply
	defer reply.Release()
	err := c.call(ctx, addService, p, &reply)
	if err == nil && !c.variant.generated() {
		if status := reply.Int32(); status != 0 {
			err = binder.Status(status)
		} else {
			err = reply.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("add service %q: %w", name, err)
	}
	return nil
}

// List returns the names of all services, sorted.
func (c *Client) List(ctx context.Context) ([]string, error) {
	var names []string
	var reply binder.Reply
	defer reply.Release()
	if c.variant.generated() {
		p := c.request()
		p.WriteInt32(dumpPriorityAll)
		if err := c.call(ctx, listServices, p, &reply); err != nil {
			return nil, fmt.Errorf("list services: %w", err)
		}
		names = reply.Strings16()
		return names, reply.Err()
	}
	for i := int32(0); ; i++ {
		p := c.request()
		p.WriteInt32(i)
		if c.variant != AIDL {
			p.WriteInt32(dumpPriorityAll)
		}
		err := c.call(ctx, listServices, p, &reply)
		var end binder.Status
		if errors.As(err, &end) {
			return names, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list services: %w", err)
		}
		names = append(names, reply.String16())
		if err := reply.Err(); err != nil {
			return nil, fmt.Errorf("list services: %w", err)
		}
	}
}
