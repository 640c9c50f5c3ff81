package broker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
)

// What the tests' service does, by transaction code.
const (
	codeSet      = iota + 1 // keeps a text
	codeGet                 // returns it
	codeAdd                 // oneway: adds a number, slowly
	codeTotal               // returns the sum
	codeEcho                // returns what it gets
	codeCrash               // dies by SIGSEGV
	codeCallback            // calls the object in the request, which may call the service
	codeKeep                // keeps the object in the request
	codeForget              // forgets it again
	codeNew                 // returns an object of its own that has no name
	codeSelf                // returns the object that was called
	codeSame                // tells whether the object in the request is the one that was called
	codeWrite               // writes to a descriptor and returns another
	codeSleep               // so many nanoseconds
	codeIdentity            // returns its pid and how many threads it has
	codeLookUp              // looks its own name up
	codeOnce                // dies the first time, which a file tells that the request names
)

const serviceName = "test.store"

// store is the service: an unmodified Binder program with state and several threads.
type store struct {
	conn *binder.Conn
	self *binder.Object

	mu    sync.Mutex
	text  string
	total int64
	kept  *binder.Ref
}

// serveStore publishes a store and works until it is killed. Before, it makes itself impossible to virtualise in some manner.
func serveStore(argument string) error {
	device, manner, _ := strings.Cut(argument, " ")
	conn, err := binder.Open(device, binder.Options{Threads: 4})
	if err != nil {
		return err
	}
	s := &store{conn: conn, text: "empty"}
	if s.self, err = conn.NewObject("test.IStore", s); err != nil {
		return err
	}
	manager := servicemanager.NewClient(conn, servicemanager.AIDL3)
	if err := manager.Add(context.Background(), serviceName, s.self); err != nil {
		return err
	}
	switch manner {
	case "twice":
		_, err = binder.Open(device, binder.Options{})
	case "holds":
		_, err = manager.Get(context.Background(), serviceName)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-conn.Failed()
	return conn.Err()
}

func (s *store) Transact(tx *binder.Transaction, reply *binder.Parcel) error {
	r := &tx.Data
	switch tx.Code {
	case codeSet:
		text := r.String16()
		s.mu.Lock()
		s.text = text
		s.mu.Unlock()
	case codeGet:
		s.mu.Lock()
		reply.WriteString16(s.text)
		s.mu.Unlock()
	case codeAdd:
		n := r.Int64()
		time.Sleep(2 * time.Millisecond)
		s.mu.Lock()
		s.total += n
		s.mu.Unlock()
	case codeTotal:
		s.mu.Lock()
		reply.WriteInt64(s.total)
		s.mu.Unlock()
	case codeEcho:
		reply.WriteBytes(r.Bytes())
	case codeCrash:
		crash()
	case codeOnce:
		name := r.String16()
		if _, err := os.Stat(name); err != nil {
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				return err
			}
			crash()
		}
	case codeSleep:
		time.Sleep(time.Duration(r.Int64()))
	case codeWrite:
		f := os.NewFile(uintptr(r.FD()), "fd")
		if err := r.Err(); err != nil {
			return err
		}
		_, err := f.WriteString("from the service")
		null, nullErr := os.Open("/proc/self/comm")
		if nullErr == nil {
			reply.WriteFD(int(null.Fd()))
			tx.AfterReply(func() { _ = null.Close() })
		}
		return errors.Join(err, nullErr, f.Close())
	case codeIdentity:
		reply.WriteInt32(int32(os.Getpid()))
		reply.WriteInt32(int32(tx.SenderUID))
	default:
		return s.transactObjects(tx, reply)
	}
	return r.Err()
}

func (s *store) transactObjects(tx *binder.Transaction, reply *binder.Parcel) error {
	r := &tx.Data
	switch tx.Code {
	case codeCallback:
		ref := r.Ref()
		if err := r.Err(); err != nil {
			return err
		}
		defer ref.Release()
		var answer binder.Reply
		defer answer.Release()
		if err := ref.Transact(context.Background(), codeCallback, s.conn.NewParcel(), &answer); err != nil {
			return err
		}
		reply.WriteString16(answer.String16())
		return answer.Err()
	case codeKeep:
		ref := r.Ref()
		if err := r.Err(); err != nil {
			return err
		}
		s.mu.Lock()
		s.kept = ref
		s.mu.Unlock()
	case codeForget:
		s.mu.Lock()
		s.kept.Release()
		s.kept = nil
		s.mu.Unlock()
	case codeNew:
		o, err := s.conn.NewObject("test.ISession", s)
		if err != nil {
			return err
		}
		reply.WriteBinder(o)
	case codeSelf:
		reply.WriteBinder(s.self)
	case codeSame:
		reply.WriteBool(r.Binder() == binder.Binder(s.self))
	case codeLookUp:
		ref, err := servicemanager.NewClient(s.conn, servicemanager.AIDL3).Get(context.Background(), serviceName)
		if err != nil {
			return err
		}
		ref.Release()
	default:
		return binder.StatusUnknownTransaction
	}
	return r.Err()
}
