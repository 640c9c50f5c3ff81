package binder_test

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/internal/roletest"
	"corsa.dev/corsa/binderfs/servicemanager"
)

var roles = roletest.Roles{
	"manager": func(device string) (func() error, error) {
		m, err := servicemanager.New(device, servicemanager.Options{Variant: servicemanager.AIDL3})
		if err != nil {
			return nil, err
		}
		return m.Close, nil
	},
	"service": func(device string) (func() error, error) { return startService(device, "service") },
	"relay":   startRelay,
}

func TestMain(m *testing.M) { roletest.Main(m, roles) }

func open(t testing.TB, device string, o binder.Options) *binder.Conn {
	t.Helper()
	c, err := binder.Open(device, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), c.Err()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// echo answers with what it has got.
func echo(tx *binder.Transaction, reply *binder.Parcel) error {
	reply.WriteRaw(tx.Data.Raw(tx.Data.Remaining()))
	return tx.Data.Err()
}

// What the service does, by transaction code.
const (
	codeEcho     = iota + 1
	codeCount    // oneway: adds a number
	codeTotal    // returns the sum
	codeCallback // calls the object in the request, which may call back again
	codeFDs      // writes to a descriptor and returns another
	codeFDArray
	codeBuffers
	codeFail
	codeSleep
	codeIdentity
	codeNewObject
	codeEchoObjects // returns a number and two objects
	codeAsync       // oneway: answers through the object in the request
)

type service struct {
	total atomic.Int64
	conn  *binder.Conn

	stopped chan struct{}
}

func startService(device, name string) (func() error, error) {
	conn, err := binder.Open(device, binder.Options{Threads: 4})
	if err != nil {
		return nil, err
	}
	s := &service{conn: conn, stopped: make(chan struct{})}
	o, err := conn.NewObject("test.IService", s)
	if err == nil {
		err = servicemanager.NewClient(conn, servicemanager.AIDL3).Add(context.Background(), name, o)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return func() error {
		close(s.stopped)
		return errors.Join(conn.Close(), conn.Err())
	}, nil
}

func (s *service) Transact(tx *binder.Transaction, reply *binder.Parcel) error {
	r := &tx.Data
	switch tx.Code {
	case codeEcho:
		return echo(tx, reply)
	case codeCount:
		s.total.Add(r.Int64())
	case codeTotal:
		reply.WriteInt64(s.total.Load())
	case codeCallback:
		return s.callback(tx, reply)
	case codeFDs:
		return exchangeFDs(r, reply)
	case codeFDArray:
		return writeToEach(r)
	case codeBuffers:
		r.Int32()
		reply.WriteBytes(r.Buffer())
		reply.WriteBytes(r.Buffer())
	case codeFail:
		return binder.Status(r.Int32())
	case codeSleep:
		select {
		case <-time.After(time.Duration(r.Int64())):
		case <-s.stopped:
		}
	case codeIdentity:
		reply.WriteInt32(int32(tx.SenderPID))
		reply.WriteInt32(int32(tx.SenderUID))
	case codeNewObject:
		o, err := s.conn.NewObject("test.ISession", s)
		if err != nil {
			return err
		}
		reply.WriteBinder(o)
	case codeEchoObjects:
		reply.WriteInt32(r.Int32())
		for range 2 {
			b := r.Binder()
			if ref, ok := b.(*binder.Ref); ok {
				tx.AfterReply(ref.Release)
			}
			reply.WriteBinder(b)
		}
	case codeAsync:
		ref := r.Ref()
		if err := r.Err(); err != nil {
			return err
		}
		defer ref.Release()
		p := s.conn.NewParcel()
		p.WriteInt64(r.Int64())
		return ref.Send(context.Background(), codeCount, p)
	default:
		return binder.StatusUnknownTransaction
	}
	return r.Err()
}

// callback calls the given object with a depth that is one less, until it is zero; the reply says on which threads.
func (s *service) callback(tx *binder.Transaction, reply *binder.Parcel) error {
	depth := tx.Data.Int32()
	ref := tx.Data.Ref()
	if err := tx.Data.Err(); err != nil {
		return err
	}
	defer ref.Release()
	var answer binder.Reply
	defer answer.Release()
	p := s.conn.NewParcel()
	p.WriteInt32(depth - 1)
	if err := ref.Transact(context.Background(), codeCallback, p, &answer); err != nil {
		return err
	}
	reply.WriteString16(answer.String16())
	return answer.Err()
}

func exchangeFDs(r *binder.Reader, reply *binder.Parcel) error {
	out := os.NewFile(uintptr(r.FD()), "out")
	if err := r.Err(); err != nil {
		return err
	}
	if _, err := out.WriteString("from the service"); err != nil {
		return err
	}
	reply.WriteFD(int(os.Stdin.Fd()))
	return out.Close()
}

func writeToEach(r *binder.Reader) error {
	r.Int32()
	r.Buffer()
	for _, fd := range r.FDArray() {
		f := os.NewFile(uintptr(fd), "fd")
		if _, err := f.WriteString("x"); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return r.Err()
}

// relayed has connect put a relay before the service.
var relayed bool

// connect starts a manager and a service and returns a connection and a reference to the service.
func connect(t testing.TB, o binder.Options) (*binder.Conn, *binder.Ref) {
	t.Helper()
	device := roletest.Device(t)
	roletest.Start(t, "manager", device)
	roletest.Start(t, "service", device)
	name := "service"
	if relayed {
		roletest.Start(t, "relay", device)
		name = "relayed.service"
	}
	conn := open(t, device, o)
	return conn, get(t, conn, name)
}

func get(t testing.TB, conn *binder.Conn, name string) *binder.Ref {
	t.Helper()
	ref, err := servicemanager.NewClient(conn, servicemanager.AIDL3).Get(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ref.Release)
	return ref
}
