package binder

import (
	"context"
	"slices"
	"unsafe"
)

// ObjectKind says what an object in a parcel is.
type ObjectKind uint8

// The kinds of objects.
const (
	KindOther  ObjectKind = iota // a file descriptor, a buffer, an array of descriptors
	KindOwn                      // an object of this process, by its number
	KindRemote                   // an object of another process, by its handle
)

// Forward makes the parcel what r reads, objects included, whatever they are. Nothing is copied: the parcel is good as long
// as what r belongs to. What was written before is dropped; nothing can be written until the next Reset.
func (p *Parcel) Forward(r *Reader) {
	p.Reset()
	p.foreign = true
	p.data = r.data[:len(r.data):len(r.data)]
	if n := len(r.offsets) / 8; n > 0 {
		// The driver has aligned them.
		p.offsets = unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(r.offsets))), n)
	}
	for i := range p.offsets {
		if b, t := r.object(i); t == typeBuffer {
			p.sgSize += (order.Uint64(b[16:]) + 7) &^ 7
		}
	}
}

// Objects returns the number of objects in the parcel.
func (p *Parcel) Objects() int { return len(p.offsets) }

// Object tells what object i is: the value is the number of an own object, see Object.ID, or the handle of a remote one.
func (p *Parcel) Object(i int) (ObjectKind, uint64) {
	b := p.objectBytes(i)
	if b == nil {
		return KindOther, 0
	}
	switch objectType(order.Uint32(b)) {
	case typeBinder, typeWeakBinder:
		return KindOwn, order.Uint64(b[8:])
	case typeHandle, typeWeakHandle:
		return KindRemote, uint64(order.Uint32(b[8:]))
	}
	return KindOther, 0
}

func (p *Parcel) objectBytes(i int) []byte {
	at := p.offsets[i]
	if uint64(len(p.data)) < flatObjectSize || at > uint64(len(p.data))-flatObjectSize {
		return nil
	}
	return p.data[at : at+flatObjectSize]
}

// Replace puts a strong reference in the place of object i, which has to be an own or a remote one. The parcel gets data of
// its own; what it was made of stays as it is.
func (p *Parcel) Replace(i int, with Binder) {
	if kind, _ := p.Object(i); kind == KindOther {
		return
	}
	if p.foreign && !p.copied {
		p.data, p.copied = slices.Clone(p.data), true
	}
	b := p.objectBytes(i)
	clear(b[8:])
	switch with := with.(type) {
	case *Object:
		order.PutUint32(b, uint32(typeBinder))
		order.PutUint64(b[8:], with.id)
		order.PutUint64(b[16:], with.id)
	case *Ref:
		order.PutUint32(b, uint32(typeHandle))
		order.PutUint32(b[8:], with.handle)
	}
}

// Relay passes transactions on to objects of other processes as they are. The zero value is ready for use, and may be used
// again once the transaction is finished; it must not be copied.
type Relay struct {
	request Parcel
	answer  Reply
	release func()
}

// Request makes a parcel of the transaction's data, in which references may be replaced before it is sent.
func (x *Relay) Request(tx *Transaction) *Parcel {
	x.request.Forward(&tx.Data)
	return &x.request
}

// Send sends the request of a oneway transaction to r.
func (x *Relay) Send(tx *Transaction, r *Ref) error {
	err := r.call(context.Background(), tx.Code, &x.request, nil)
	x.request.Reset()
	return err
}

// Transact sends the request to r and makes the answer the reply, in which references may be replaced before the handler
// returns. Its memory is given back when the driver has read the reply, and then done is called. After an error it is not.
func (x *Relay) Transact(tx *Transaction, r *Ref, reply *Parcel, done func()) error {
	err := r.call(context.Background(), tx.Code, &x.request, &x.answer)
	x.request.Reset()
	if err != nil {
		return err
	}
	reply.Forward(&x.answer.Reader)
	if x.release == nil {
		x.release = x.answer.Release
	}
	tx.AfterReply(x.release)
	tx.AfterReply(done)
	return nil
}

// Drop gives an answer back that is not to be passed on. The handler has to write another reply, or return an error.
func (x *Relay) Drop(reply *Parcel) {
	reply.Reset()
	x.answer.Release()
}

// Reader returns a Reader of what is in the parcel, without its objects.
func (p *Parcel) Reader() *Reader { return NewReader(p.format(), p.data, nil) }
