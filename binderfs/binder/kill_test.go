package binder_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/internal/roletest"
)

// Services are killed at any moment while calls of every kind are under way: each call ends, with the right answer or because
// the object is dead, and nothing stays behind.
func TestKills(t *testing.T) {
	device := roletest.Device(t)
	roletest.Start(t, "manager", device)
	conn := open(t, device, binder.Options{Threads: 4})
	callback, err := conn.NewObject("test.ICallback", binder.HandlerFunc(func(tx *binder.Transaction, reply *binder.Parcel) error {
		reply.WriteString16("bottom")
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	before := 0
	for round := range 12 {
		peer := roletest.Start(t, "service", device)
		service := get(t, conn, "service")
		var group sync.WaitGroup
		for g := range 8 {
			group.Go(func() {
				c := caller{conn: conn, service: service, callback: callback, random: rand.New(rand.NewPCG(uint64(round), uint64(g)))}
				defer c.reply.Release()
				for {
					err := c.call()
					if errors.Is(err, binder.ErrDead) || errors.Is(err, binder.StatusDeadObject) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		peer.Kill(t)
		group.Wait()
		service.Release()
		if round == 0 {
			before = descriptors(t)
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors after the first service, %d after the last", before, after)
	}
	roletest.Eventually(t, "the references of the dead are dropped", func() bool { return !callback.Referenced() })
	if n := binder.Remotes(conn); n != 0 {
		t.Errorf("%d references to the dead are left", n)
	}
}

type caller struct {
	conn     *binder.Conn
	service  *binder.Ref
	callback *binder.Object
	random   *rand.Rand
	reply    binder.Reply
}

// call makes a call of a random kind and looks at the answer.
func (c *caller) call() error {
	p := c.conn.NewParcel()
	switch c.random.IntN(5) {
	case 0:
		n := c.random.Int32()
		p.WriteInt32(n)
		if err := c.service.Transact(background, codeEcho, p, &c.reply); err != nil {
			return err
		}
		if got := c.reply.Int32(); got != n {
			return errors.New("another caller's answer")
		}
	case 1:
		return c.service.Send(background, codeCount, one)
	case 2:
		p.WriteInt32(1)
		p.WriteBinder(c.callback)
		if err := c.service.Transact(background, codeCallback, p, &c.reply); err != nil {
			return err
		}
		if c.reply.String16() != "bottom" {
			return errors.New("not the callback's answer")
		}
	case 3:
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		p.WriteFD(int(w.Fd()))
		err = c.service.Transact(background, codeFDs, p, &c.reply)
		return errors.Join(err, r.Close(), w.Close())
	case 4:
		if err := c.service.Transact(background, codeNewObject, p, &c.reply); err != nil {
			return err
		}
		session := c.reply.Ref()
		if err := c.reply.Err(); err != nil {
			return err
		}
		defer session.Release()
		return session.Ping(background)
	}
	return c.reply.Err()
}
