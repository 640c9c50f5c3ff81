package broker

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/spec"
)

// call is a transaction that is being passed on.
type call struct {
	relay  binder.Relay
	app    *app
	copies *copies
	end    func()
}

var calls sync.Pool

func newCall(a *app, copies *copies) *call {
	c, ok := calls.Get().(*call)
	if !ok {
		c = &call{}
		c.end = c.recycle
	}
	c.app, c.copies = a, copies
	return c
}

// recycle ends the use of c when the driver has read the reply.
func (c *call) recycle() {
	c.app, c.copies = nil, nil
	calls.Put(c)
}

// staleLimit is how long a transaction waits for the death of an instance to be noticed.
const staleLimit = 5 * time.Second

// Transact passes a transaction on to the copy of the object that belongs to the sender.
func (in *standIn) Transact(tx *binder.Transaction, reply *binder.Parcel) error {
	b := in.broker
	switch tx.Code {
	case binder.CodePing:
		return nil
	case binder.CodeInterface:
		b.mu.Lock()
		iface := in.iface
		b.mu.Unlock()
		if iface != "" {
			reply.WriteString16(iface)
			return nil
		}
	}
	if tx.Within != nil {
		if outer, ok := tx.Within.Note.(*call); ok && outer.copies != nil {
			return in.within(outer, tx, reply)
		}
	}
	select {
	case <-b.serving:
	case <-b.ctx.Done():
		return binder.StatusDeadObject
	}
	a, err := b.sender(tx)
	if err != nil {
		b.log.WithField("uid", tx.SenderUID).WithError(err).Warn("a transaction is refused")
		return binder.StatusPermissionDenied
	}
	begun := time.Now()
	for tries := 0; ; tries++ {
		copies, err := b.enter(a)
		if errors.Is(err, errStale) && time.Since(begun) < staleLimit {
			time.Sleep(time.Millisecond) // whoever has noticed puts another in its place
			tries--
			continue
		}
		if err == nil {
			err = in.pass(a, copies, tx, reply)
			b.leave(a, copies)
		}
		if !errors.Is(err, binder.ErrDead) {
			return b.answer(in, tx, reply, err)
		}
		if !b.retries(tx, tries) {
			return binder.StatusFailedTransaction
		}
	}
}

// pass sends the transaction to the instance that copies belong to.
func (in *standIn) pass(a *app, copies *copies, tx *binder.Transaction, reply *binder.Parcel) error {
	c := newCall(a, copies)
	tx.Note = c
	kept, err := in.send(c, tx, reply)
	tx.Note = nil
	if !kept {
		c.recycle()
	}
	return err
}

// within passes on what is sent for a transaction that is under way: by the instance itself, or by whom it has called.
func (in *standIn) within(outer *call, tx *binder.Transaction, reply *binder.Parcel) error {
	err := in.pass(outer.app, outer.copies, tx, reply)
	if errors.Is(err, binder.ErrDead) {
		err = binder.StatusFailedTransaction
	}
	return err
}

// send sends the transaction, waits for the answer and makes it the reply. kept says that c is in use until the driver has read
// the reply.
func (in *standIn) send(c *call, tx *binder.Transaction, reply *binder.Parcel) (kept bool, err error) {
	ref := c.copies.refs[in.ptr]
	if ref == nil {
		return false, binder.StatusDeadObject // the service has taken this object back
	}
	b := in.broker
	request := c.relay.Request(tx)
	for i := range request.Objects() {
		if kind, id := request.Object(i); kind == binder.KindOwn {
			if own := b.standInOf(id); own != nil && c.copies.refs[own.ptr] != nil {
				request.Replace(i, c.copies.refs[own.ptr])
			}
		}
	}
	if tx.OneWay {
		b.mu.Lock()
		c.app.oneway = true
		b.mu.Unlock()
		return false, c.relay.Send(tx, ref)
	}
	if err := c.relay.Transact(tx, ref, reply, c.end); err != nil {
		return false, err
	}
	for i := range reply.Objects() {
		kind, handle := reply.Object(i)
		if kind != binder.KindRemote {
			continue
		}
		own, err := b.given(c, uint32(handle))
		switch {
		case err == nil && own == nil: // somebody else's
		case err == nil:
			reply.Replace(i, own.object)
		default:
			b.logApp(c.app).WithField("name", in.name).WithField("code", tx.Code).WithError(err).Error("a reply is refused")
			c.relay.Drop(reply)
			return true, binder.StatusInvalidOperation
		}
	}
	return true, nil
}

func (b *Broker) standInOf(id uint64) *standIn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.byID[id]
}

var errNewObject = errors.New("the service hands out an object that it has not published, which would be called past the broker; " +
	"services that do need corsa.ko")

// given tells what a handle in a reply is: the stand-in of the object that it leads to, or nil if that is not the
// instance's. The error is errNewObject if it is an object for which there is no stand-in.
func (b *Broker) given(c *call, handle uint32) (*standIn, error) {
	for ptr, ref := range c.copies.refs {
		if ref.Handle() == handle {
			b.mu.Lock()
			defer b.mu.Unlock()
			if in := b.byPtr[ptr]; in != nil {
				return in, nil
			}
			return nil, errNewObject
		}
	}
	b.mu.Lock()
	p, ok := c.app.inst.(engine.BrokeredInstance)
	b.mu.Unlock()
	if !ok {
		return nil, errNewObject
	}
	dir, device := b.mount()
	ours, err := binderfs.ReadProcesses(dir, os.Getpid(), device)
	if err != nil {
		return nil, err
	}
	theirs, err := binderfs.ReadProcesses(dir, p.BrokerPID(), device)
	if err != nil {
		return nil, err
	}
	for _, o := range ours {
		for _, r := range o.Refs {
			if r.Handle != handle {
				continue
			}
			for _, t := range theirs {
				for _, n := range t.Nodes {
					if n.ID == r.Node {
						return nil, errNewObject
					}
				}
			}
		}
	}
	return nil, nil
}

// retries tells whether a transaction whose instance has died is sent again. One with references may have been answered
// by calls that nobody takes back.
func (b *Broker) retries(tx *binder.Transaction, tries int) bool {
	p := b.cfg.Service.OnCrash
	if p.Mode != spec.CrashRetry || tries >= p.Retries || b.ctx.Err() != nil {
		return false
	}
	var request binder.Parcel
	request.Forward(&tx.Data)
	for i := range request.Objects() {
		if kind, _ := request.Object(i); kind != binder.KindOther {
			return false
		}
	}
	return true
}

// answer turns the outcome into what the app sees, and remembers the name of the interface.
func (b *Broker) answer(in *standIn, tx *binder.Transaction, reply *binder.Parcel, err error) error {
	var status binder.Status
	switch {
	case err == nil:
		if tx.Code == binder.CodeInterface && !tx.OneWay {
			in.remember(reply)
		}
		return nil
	case errors.As(err, &status):
		return status
	case errors.Is(err, errBusy):
		b.log.WithError(err).Error("a transaction is refused")
	case errors.Is(err, context.Canceled), errors.Is(err, ErrClosed):
		return binder.StatusDeadObject
	}
	return binder.StatusFailedTransaction
}

// remember keeps the name of the interface, which is the same in all instances.
func (in *standIn) remember(reply *binder.Parcel) {
	r := reply.Reader()
	if iface := r.String16(); r.Err() == nil {
		in.broker.mu.Lock()
		in.iface = iface
		in.broker.mu.Unlock()
	}
}
