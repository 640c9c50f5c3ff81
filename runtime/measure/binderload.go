package measure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
)

// The service and the clients of a measurement of Binder. Each runs in a process of its own, which is this program again.

const (
	echoDescriptor = "dev.corsa.IEcho"
	echoThreads    = 4
	codeEcho       = binder.FirstCall
	echoSize       = 64 // bytes of a request and of its reply
)

// echoManager is the protocol of the service manager, where there is one.
const echoManager = servicemanager.AIDL3

// ServeEcho is a service that answers with what it is sent, until ctx is done: the context manager of the device, or, with a
// name, a service that adds that name to the one which the device has.
func ServeEcho(ctx context.Context, device, name string) error {
	o := binder.Options{Threads: echoThreads, Eager: true}
	if name != "" {
		o.Protocol = echoManager.Protocol()
	}
	conn, err := binder.Open(device, o)
	if err != nil {
		return err
	}
	echo := binder.HandlerFunc(func(tx *binder.Transaction, reply *binder.Parcel) error {
		reply.WriteRaw(tx.Data.Raw(echoSize))
		return tx.Data.Err()
	})
	if name == "" {
		_, err = conn.BecomeContextManager(echoDescriptor, echo)
	} else {
		err = addEcho(ctx, conn, name, echo)
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case <-conn.Failed():
		}
	}
	return errors.Join(err, conn.Err(), conn.Close())
}

func addEcho(ctx context.Context, conn *binder.Conn, name string, echo binder.Handler) error {
	o, err := conn.NewObject(echoDescriptor, echo)
	if err != nil {
		return err
	}
	return servicemanager.NewClient(conn, echoManager).Add(ctx, name, o)
}

// loadOrder is what a client is told to do: Calls calls, or calls for so long.
type loadOrder struct {
	Calls int           `json:"calls,omitempty"`
	For   time.Duration `json:"for,omitempty"`
}

// loadCall is when a call began and ended, in nanoseconds of the monotonic clock.
type loadCall [2]int64

// ServeLoad is a client with that uid: it takes orders from in, calls the service of that name, or without one the context
// manager of the device, and tells out when each call began and ended, until in ends.
func ServeLoad(device, name string, uid int, in io.Reader, out io.Writer) (err error) {
	if err := errors.Join(unix.Setresgid(uid, uid, uid), unix.Setresuid(uid, uid, uid)); err != nil {
		return err
	}
	o := binder.Options{}
	if name != "" {
		o.Protocol = echoManager.Protocol()
	}
	conn, err := binder.Open(device, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ref := conn.ContextManager()
	if name != "" {
		if ref, err = servicemanager.NewClient(conn, echoManager).Get(context.Background(), name); err != nil {
			return err
		}
		defer ref.Release()
	}
	c := &echoClient{ref: ref, request: conn.NewParcel()}
	c.request.WriteRaw(make([]byte, echoSize))
	defer c.reply.Release()
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	var calls []loadCall
	for {
		var order loadOrder
		if err := orders.Decode(&order); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if calls, err = c.obey(order, calls[:0]); err != nil {
			return err
		}
		if err := answers.Encode(calls); err != nil {
			return err
		}
	}
}

// echoClient calls the echo service.
type echoClient struct {
	ref     *binder.Ref
	request *binder.Parcel
	reply   binder.Reply
}

func (c *echoClient) obey(order loadOrder, calls []loadCall) ([]loadCall, error) {
	end := int64(1<<63 - 1)
	if order.For > 0 {
		order.Calls = 1 << 30
		end = monotonic() + int64(order.For)
	}
	for range order.Calls {
		began := monotonic()
		if began > end {
			break
		}
		if err := c.ref.Transact(context.Background(), codeEcho, c.request, &c.reply); err != nil {
			return nil, err
		}
		calls = append(calls, loadCall{began, monotonic()})
	}
	if n := c.reply.Remaining(); n != echoSize {
		return nil, fmt.Errorf("the echo service answers with %d bytes", n)
	}
	return calls, nil
}

func monotonic() int64 {
	var t unix.Timespec
	// It cannot fail for a clock that every kernel has.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}
