package binder

import (
	"errors"
	"slices"
	"testing"
)

func TestNext(t *testing.T) {
	stream := order.AppendUint32(nil, uint32(brNoop))
	stream = appendPtrCookie(stream, brIncRefs, 7, 8)
	cmd, payload, rest, err := next(stream)
	if cmd != brNoop || len(payload) != 0 || err != nil {
		t.Fatalf("%#x, %v, %v", cmd, payload, err)
	}
	if cmd, payload, rest, err = next(rest); cmd != brIncRefs || len(payload) != 16 || len(rest) != 0 || err != nil {
		t.Fatalf("%#x, %v, %v, %v", cmd, payload, rest, err)
	}
	if _, _, _, err = next(stream[:10]); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err = next(stream[4:10]); !errors.Is(err, ErrMalformed) {
		t.Fatalf("a command without its end: %v", err)
	}
}

// The numbers of linux/android/binder.h.
func TestNumbers(t *testing.T) {
	for name, n := range map[string][2]uintptr{
		"BINDER_WRITE_READ":          {ioctlWriteRead, 0xc0306201},
		"BINDER_SET_MAX_THREADS":     {ioctlSetMaxThreads, 0x40046205},
		"BINDER_SET_CONTEXT_MGR_EXT": {ioctlSetContextMgrExt, 0x4018620d},
		"BINDER_FREEZE":              {ioctlFreeze, 0x400c620e},
		"BINDER_GET_EXTENDED_ERROR":  {ioctlExtendedError, 0xc00c6211},
		"BC_TRANSACTION":             {uintptr(bcTransaction), 0x40406300},
		"BC_FREE_BUFFER":             {uintptr(bcFreeBuffer), 0x40086303},
		"BC_REQUEST_DEATH":           {uintptr(bcRequestDeath), 0x400c630e},
		"BC_TRANSACTION_SG":          {uintptr(bcTransactionSG), 0x40486311},
		"BR_TRANSACTION":             {uintptr(brTransaction), 0x80407202},
		"BR_TRANSACTION_SEC_CTX":     {uintptr(brTransactionSecCtx), 0x80487202},
		"BR_DEAD_BINDER":             {uintptr(brDeadBinder), 0x8008720f},
		"BINDER_TYPE_HANDLE":         {uintptr(typeHandle), 0x73682a85},
	} {
		if n[0] != n[1] {
			t.Errorf("%s is %#x instead of %#x", name, n[0], n[1])
		}
	}
}

func TestTransactionData(t *testing.T) {
	d := transactionData{1, 2, 3, 4, -5, 6, 7, 8, 9, 10}
	if got := decodeTransaction(d.append(nil)); got != d {
		t.Errorf("%+v became %+v", d, got)
	}
}

// FuzzStream gives a thread whatever a driver might return, including replies and transactions that nobody expects, whose
// buffers lie anywhere.
func FuzzStream(f *testing.F) {
	d := transactionData{target: 1, code: CodePing, dataSize: 16, offsetsSize: 8, buffer: 64, offsets: 80}
	f.Add(d.append(order.AppendUint32(nil, uint32(brTransaction))), true)
	f.Add(d.append(order.AppendUint32(nil, uint32(brReply))), true)
	d.dataSize = 1 << 63
	f.Add(d.append(order.AppendUint32(nil, uint32(brTransaction))), false)
	f.Add(slices.Concat(order.AppendUint32(nil, uint32(brDeadReply)), order.AppendUint32(nil, uint32(brComplete))), true)
	f.Add(appendPointer(nil, brDeadBinder, 3), false)
	f.Fuzz(func(t *testing.T, stream []byte, calling bool) {
		c := &Conn{
			fd: -1, loopers: 1, protocol: AIDL3, mapping: &mapping{mem: make([]byte, 256)}, failed: make(chan struct{}),
			objects: map[uint64]*Object{}, remotes: map[uint32]*remote{}, deaths: map[uint64]*remote{}, trace: func(*Event) {},
		}
		c.closing.Store(true) // no thread starts
		c.mapping.users.Store(1 << 40)
		if _, err := c.NewObject("fuzz", HandlerFunc(readAll)); err != nil {
			t.Fatal(err)
		}
		var call *outgoing
		if calling {
			call = &outgoing{reply: &Reply{}}
		}
		th := &thread{conn: c, tid: 1, in: make([]byte, readBuffer), looper: true}
		err := th.handle(stream, call)
		if err == nil && th.serving != 0 {
			t.Error("still serving")
		}
		if th.replying < 0 {
			t.Error("more replies are settled than were sent")
		}
		for out := th.out; len(out) > 0; {
			_, _, rest, err := next(out)
			if err != nil {
				t.Fatalf("the driver is given a torn command: %v", err)
			}
			out = rest
		}
	})
}

func readAll(tx *Transaction, reply *Parcel) error {
	tx.Data.InterfaceToken()
	reply.WriteString16(tx.Data.String16())
	return tx.Data.Err()
}
