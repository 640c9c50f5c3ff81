package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
)

// client makes calls to the service.
type client struct {
	conn  *binder.Conn
	store *binder.Ref
	reply binder.Reply
}

func call(at address, command string, args []string) error {
	conn, err := binder.Open(at.device, binder.Options{Threads: 1})
	if err != nil {
		return err
	}
	c := &client{conn: conn, store: conn.ContextManager()}
	if at.name != "" {
		c.store, err = servicemanager.NewClient(conn, variant).Get(context.Background(), at.name)
	}
	if err == nil {
		err = c.do(command, args)
		c.store.Release()
	}
	c.reply.Release()
	return errors.Join(err, conn.Close())
}

func (c *client) do(command string, args []string) error {
	n := 1
	if len(args) > 0 && command != "put" {
		var err error
		if n, err = strconv.Atoi(args[0]); err != nil {
			return fmt.Errorf("%q is no number", args[0])
		}
	}
	switch command {
	case "put":
		if len(args) != 1 {
			return errors.New("put needs a text")
		}
		p := c.conn.NewParcel()
		p.WriteString16(args[0])
		return c.number(codePut, p)
	case "get":
		if err := c.ask(c.store, codeGet, c.conn.NewParcel()); err != nil {
			return err
		}
		fmt.Println(c.reply.String16())
		return c.reply.Err()
	case "count":
		if err := c.ask(c.store, codeCount, c.conn.NewParcel()); err != nil {
			return err
		}
		fmt.Println(c.reply.Int64())
		return c.reply.Err()
	case "fill":
		return c.fill(n)
	case "oneway":
		for range n {
			if err := c.store.Send(context.Background(), codeAdd, c.conn.NewParcel()); err != nil {
				return err
			}
		}
		return nil
	case "callback":
		return c.callback(n)
	case "session":
		return c.session(2, func() bool { return true })
	case "keep":
		lines := bufio.NewScanner(os.Stdin)
		fmt.Println("ready")
		return c.session(1<<30, lines.Scan)
	case "crash":
		return c.ask(c.store, codeCrash, c.conn.NewParcel())
	case "hold":
		return c.ask(c.store, codeHold, c.conn.NewParcel())
	}
	return fmt.Errorf("unknown command %q", command)
}

func (c *client) ask(ref *binder.Ref, code uint32, p *binder.Parcel) error {
	return ref.Transact(context.Background(), code, p, &c.reply)
}

func (c *client) number(code uint32, p *binder.Parcel) error {
	if err := c.ask(c.store, code, p); err != nil {
		return err
	}
	fmt.Println(c.reply.Int32())
	return c.reply.Err()
}

// fill sends payloads; each answer has to be the one before.
func (c *client) fill(n int) error {
	for i := range n {
		p := c.conn.NewParcel()
		p.WriteRaw(payload(i))
		if err := c.ask(c.store, codeEcho, p); err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
		got := c.reply.Raw(payloadSize)
		if err := c.reply.Err(); err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
		if i > 0 && !bytes.Equal(got, payload(i-1)) {
			return fmt.Errorf("call %d is answered with %q, which is not this client's", i, got[:16])
		}
	}
	fmt.Println(n)
	return nil
}

func (c *client) callback(n int) error {
	var calls int32
	o, err := c.conn.NewObject(descriptor+"Callback", binder.HandlerFunc(func(_ *binder.Transaction, reply *binder.Parcel) error {
		calls++
		reply.WriteInt32(calls)
		return nil
	}))
	if err != nil {
		return err
	}
	for i := range n {
		p := c.conn.NewParcel()
		p.WriteBinder(o)
		if err := c.ask(c.store, codeCallback, p); err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
		if got := c.reply.Int32(); got != int32(i+1) {
			return fmt.Errorf("call %d came back as %d (%w)", i+1, got, c.reply.Err())
		}
	}
	fmt.Println(calls)
	return nil
}

// session gets an object and calls it as long as more says so, n times at most.
func (c *client) session(n int, more func() bool) error {
	if err := c.ask(c.store, codeSession, c.conn.NewParcel()); err != nil {
		return err
	}
	ref, ok := c.reply.Binder().(*binder.Ref)
	if !ok {
		return errors.New("the service hands out no object")
	}
	defer ref.Release()
	for i := 0; i < n && more(); i++ {
		if err := c.ask(ref, codeStep, c.conn.NewParcel()); err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(c.reply.Int32(), c.reply.String16())
	}
	return nil
}
