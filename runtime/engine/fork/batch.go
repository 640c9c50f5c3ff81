package fork

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// batch is a list of system calls that a context of the stub makes in one go, and the memory that they point to.
// Addresses in it are those that it will have inside the service.
type batch struct {
	at, dataAt uint64
	entries    []entry
	data       []byte
}

// entry is one system call. refs: an argument is the result of the entry with that number, counted from 1; deref:
// bit i set: argument i is the int at the address given.
type entry struct {
	nr    uintptr
	args  [6]uint64
	refs  [6]uint16
	deref uint8
	kind  uint8
	must  bool
	child uint64
}

// entryResult is where in an encoded entry its result is.
const entryResult = 56

// Kinds of entries.
const (
	entryCall  = 0
	entryClone = 1 // the child goes on in context child
	entryCopy  = 2 // memory copy: destination, source, length
)

// ref makes an argument out of the result of an earlier entry.
type ref int

// intAt makes an argument out of an int in the service's memory, read when the entry is reached.
type intAt uint64

// call appends a system call that ends the batch if it fails. Arguments are integers, ref or intAt. It returns
// the entry's ref.
func (b *batch) call(nr uintptr, args ...any) ref {
	b.entries = append(b.entries, makeEntry(nr, args))
	return ref(len(b.entries))
}

// try is call for a system call that may fail.
func (b *batch) try(nr uintptr, args ...any) ref {
	r := b.call(nr, args...)
	b.entries[r-1].must = false
	return r
}

// clone appends a clone3 whose child goes on in the context at child. The caller still owns the args' encoding.
func (b *batch) clone(args cloneArgs, child uint64) ref {
	at := b.put(args.encode(), 8)
	r := b.call(unix.SYS_CLONE3, at, uint64(cloneArgsSize))
	b.entries[r-1].kind, b.entries[r-1].child = entryClone, child
	return r
}

func (b *batch) copyMem(dst, src, n any) {
	r := b.call(0, dst, src, n)
	b.entries[r-1].kind = entryCopy
}

func makeEntry(nr uintptr, args []any) entry {
	e := entry{nr: nr, must: true}
	for i, a := range args {
		switch v := a.(type) {
		case int:
			e.args[i] = uint64(v)
		case uint64:
			e.args[i] = v
		case ref:
			e.refs[i] = uint16(v)
		case intAt:
			e.args[i] = uint64(v)
			e.deref |= 1 << i
		default:
			panic(fmt.Sprintf("fork: argument of type %T", a))
		}
	}
	return e
}

// put adds p to the batch's data, aligned, and returns its address inside the service.
func (b *batch) put(p []byte, align int) uint64 {
	for (b.dataAt+uint64(len(b.data)))%uint64(align) != 0 {
		b.data = append(b.data, 0)
	}
	at := b.dataAt + uint64(len(b.data))
	b.data = append(b.data, p...)
	return at
}

func (b *batch) putString(s string) uint64 { return b.put(append([]byte(s), 0), 1) }

func (b *batch) reserve(n, align int) uint64 { return b.put(make([]byte, n), align) }

// encode gives the entries as the stub reads them.
func (b *batch) encode() []byte {
	le := binary.LittleEndian
	out := make([]byte, len(b.entries)*entrySize)
	for i, e := range b.entries {
		o := out[i*entrySize:]
		le.PutUint64(o, uint64(e.nr))
		for j, a := range e.args {
			le.PutUint64(o[8+8*j:], a)
		}
		for j, r := range e.refs {
			le.PutUint16(o[64+2*j:], r)
		}
		o[76] = e.kind
		if e.must {
			o[77] = 1
		}
		o[78] = e.deref
		le.PutUint64(o[80:], e.child)
	}
	return out
}

// result reads the result of entry r from encoded entries that were read back.
func result(encoded []byte, r ref) int64 {
	return int64(binary.LittleEndian.Uint64(encoded[(int(r)-1)*entrySize+entryResult:]))
}

// cloneArgs is struct clone_args (include/uapi/linux/sched.h).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

const cloneArgsSize = 88

func (c cloneArgs) encode() []byte {
	b := make([]byte, cloneArgsSize)
	for i, v := range [...]uint64{
		c.flags, c.pidfd, c.childTID, c.parentTID, c.exitSignal, c.stack, c.stackSize, c.tls, c.setTID,
		c.setTIDSize, c.cgroup,
	} {
		binary.LittleEndian.PutUint64(b[8*i:], v)
	}
	return b
}
