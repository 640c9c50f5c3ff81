package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
)

// store is the state of the service.
type store struct {
	conn *binder.Conn

	mu       sync.Mutex
	text     string
	puts     int32
	count    int64
	last     []byte // the last payload
	sessions []*session
}

// session is an object that the service hands out.
type session struct {
	store *store
	mu    sync.Mutex
	steps int32
}

const threads = 4

func serve(ctx context.Context, at address) error {
	conn, err := binder.Open(at.device, binder.Options{Threads: threads, Eager: true})
	if err != nil {
		return err
	}
	s := &store{conn: conn, last: make([]byte, payloadSize)}
	if err := s.publish(ctx, at.name); err != nil {
		return errors.Join(err, conn.Close())
	}
	select {
	case <-ctx.Done():
	case <-conn.Failed():
	}
	return errors.Join(conn.Err(), conn.Close())
}

func (s *store) publish(ctx context.Context, name string) error {
	if name == "" {
		_, err := s.conn.BecomeContextManager(descriptor, s)
		return err
	}
	o, err := s.conn.NewObject(descriptor, s)
	if err != nil {
		return err
	}
	return servicemanager.NewClient(s.conn, variant).Add(ctx, name, o)
}

// Transact implements binder.Handler.
func (s *store) Transact(tx *binder.Transaction, reply *binder.Parcel) error {
	s.mu.Lock()
	s.count++
	s.mu.Unlock()
	switch tx.Code {
	case codePut:
		text := tx.Data.String16()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.text = text
		s.puts++
		reply.WriteInt32(s.puts)
	case codeGet:
		s.mu.Lock()
		defer s.mu.Unlock()
		reply.WriteString16(s.text)
	case codeCount:
		s.mu.Lock()
		defer s.mu.Unlock()
		reply.WriteInt64(s.count)
	case codeEcho:
		return s.echo(tx, reply)
	case codeAdd:
	case codeCallback:
		return s.callBack(tx, reply)
	case codeSession:
		return s.hand(reply)
	case codeCrash:
		var nowhere *store
		nowhere.text = "crash" // outside of every recover
	case codeHold:
		time.Sleep(300 * time.Millisecond)
	default:
		return binder.StatusUnknownTransaction
	}
	return tx.Data.Err()
}

// echo answers with what it has been sent the time before, and keeps this.
func (s *store) echo(tx *binder.Transaction, reply *binder.Parcel) error {
	data := tx.Data.Raw(payloadSize)
	s.mu.Lock()
	defer s.mu.Unlock()
	reply.WriteRaw(s.last)
	copy(s.last, data)
	return tx.Data.Err()
}

// callBack calls the object in the request within the transaction, and passes its answer on.
func (s *store) callBack(tx *binder.Transaction, reply *binder.Parcel) error {
	ref, ok := tx.Data.Binder().(*binder.Ref)
	if !ok {
		return binder.StatusBadValue
	}
	defer ref.Release()
	var answer binder.Reply
	defer answer.Release()
	if err := ref.Transact(context.Background(), codeStep, s.conn.NewParcel(), &answer); err != nil {
		return err
	}
	reply.WriteInt32(answer.Int32())
	return answer.Err()
}

func (s *store) hand(reply *binder.Parcel) error {
	n := &session{store: s}
	o, err := s.conn.NewObject(descriptor+"Session", n)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.sessions = append(s.sessions, n)
	s.mu.Unlock()
	reply.WriteBinder(o)
	return nil
}

// Transact implements binder.Handler.
func (n *session) Transact(tx *binder.Transaction, reply *binder.Parcel) error {
	if tx.Code != codeStep {
		return binder.StatusUnknownTransaction
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.steps++
	reply.WriteInt32(n.steps)
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	reply.WriteString16(n.store.text)
	return nil
}
