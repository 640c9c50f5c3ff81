package broker

import (
	"errors"
	"fmt"
	"time"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/runtime/engine"
)

// copies are references to an instance's copies of the service's objects.
type copies struct {
	refs  map[uint64]*binder.Ref // by ptr
	uses  int                    // guarded by Broker.mu: one for being known, one for each transaction under way
	stops []func()
}

// publishLimit is how long an instance's publication may take to arrive once the engine has sent it.
const publishLimit = 10 * time.Second

// maxUnclaimed bounds what somebody could publish under the service's user to fill the broker's memory.
const maxUnclaimed = 4096

// published takes an instance's objects; see engine.Broker. It also gets what is no call of a service manager at all.
func (b *Broker) published(tx *binder.Transaction, _ *binder.Parcel) error {
	if tx.Code != engine.BrokerPublish || !tx.OneWay {
		return binder.StatusUnknownTransaction
	}
	b.mu.Lock()
	ok := b.sealed && tx.SenderUID == b.uid && len(b.copies) < maxUnclaimed
	b.mu.Unlock()
	if !ok {
		return binder.StatusPermissionDenied
	}
	r := &tx.Data
	var token engine.BrokerToken
	copy(token[:], r.Raw(len(token)))
	n := int(r.Uint32())
	r.Uint32()
	if r.Err() != nil || n > r.Remaining()/8 {
		return binder.StatusBadValue
	}
	c := &copies{refs: make(map[uint64]*binder.Ref, n), uses: 1}
	for i := range n {
		ptr := r.Uint64()
		if ref := r.RefAt(i); ref != nil {
			c.refs[ptr] = ref
		}
	}
	if err := r.Err(); err != nil || token == (engine.BrokerToken{}) {
		b.drop(c)
		return binder.StatusBadValue
	}
	for _, ref := range c.refs { // all die together
		stop, err := ref.NotifyDeath(func() { b.forget(token) })
		if err != nil {
			b.drop(c)
			return err
		}
		c.stops = append(c.stops, stop)
		break
	}
	b.mu.Lock()
	b.copies[token] = c
	b.arrived.Broadcast()
	b.mu.Unlock()
	return nil
}

// forget ends what is known of an instance that is dead.
func (b *Broker) forget(token engine.BrokerToken) {
	b.mu.Lock()
	c := b.copies[token]
	delete(b.copies, token)
	b.mu.Unlock()
	if c != nil {
		b.drop(c)
	}
}

// drop ends one use. The references go with the last: a handle that a transaction is about to use must not become another
// instance's.
func (b *Broker) drop(c *copies) {
	b.mu.Lock()
	c.uses--
	last := c.uses == 0
	b.mu.Unlock()
	if !last {
		return
	}
	for _, stop := range c.stops {
		stop()
	}
	for _, ref := range c.refs {
		ref.Release()
	}
}

// claim returns the copies that belong to in, which has been made or opened just now.
func (b *Broker) claim(in engine.Instance) (*copies, error) {
	p, ok := in.(engine.BrokeredInstance)
	if !ok || p.BrokerToken() == (engine.BrokerToken{}) {
		return nil, errors.New("the instance has published nothing: its engine does not know of the broker")
	}
	token := p.BrokerToken()
	timer := time.AfterFunc(publishLimit, b.arrived.Broadcast)
	defer timer.Stop()
	begun := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if c := b.copies[token]; c != nil {
			return c, nil
		}
		if b.closed {
			return nil, ErrClosed
		}
		if time.Since(begun) >= publishLimit {
			return nil, fmt.Errorf("instance %d: its Binder objects do not arrive", in.PID())
		}
		b.arrived.Wait()
	}
}
