package binder

import (
	"sort"

	"golang.org/x/sys/unix"
)

// objectAt returns the index of the object that begins at pos, -1 if the driver has not seen one there: what looks like an
// object there is data that the sender has made up.
func (r *Reader) objectAt(pos int) int {
	n := len(r.offsets) / 8
	i := sort.Search(n, func(i int) bool { return order.Uint64(r.offsets[8*i:]) >= uint64(pos) })
	if i == n || order.Uint64(r.offsets[8*i:]) != uint64(pos) {
		return -1
	}
	return i
}

// object returns the bytes and the type of the object of that index, or nil.
func (r *Reader) object(index int) ([]byte, objectType) {
	if index < 0 || index >= len(r.offsets)/8 {
		return nil, 0
	}
	at := order.Uint64(r.offsets[8*index:])
	if at > uint64(len(r.data)) || uint64(len(r.data))-at < 4 {
		return nil, 0
	}
	t := objectType(order.Uint32(r.data[at:]))
	size := uint64(t.size())
	if size == 0 || size > uint64(len(r.data))-at {
		return nil, 0
	}
	return r.data[at : at+size], t
}

// Binder reads a reference, which may be nil. If it is a *Ref, the caller has to release it.
func (r *Reader) Binder() Binder {
	index := r.objectAt(r.pos)
	b := r.take(flatObjectSize)
	if b == nil {
		return nil
	}
	t, value := objectType(order.Uint32(b)), order.Uint64(b[8:])
	if r.protocol.hasStability() {
		r.Uint32()
	}
	if r.err != nil {
		return nil
	}
	switch {
	case t == typeBinder && value == 0:
		return nil
	case index < 0:
		r.fail("no object where a reference should be")
	case r.conn == nil:
		r.fail("a reference without a connection")
	case t == typeHandle:
		ref, err := r.conn.acquire(uint32(value))
		if err == nil {
			return ref
		}
		r.err = err
	case t == typeBinder:
		if o := r.conn.object(value); o != nil {
			return o
		}
		r.fail("reference to an object %d that is closed", value)
	default:
		r.fail("object %#x where a strong reference should be", uint32(t))
	}
	return nil
}

// Ref reads a reference to an object of another process; null and references to objects of this process are errors. The
// caller has to release it.
func (r *Reader) Ref() *Ref {
	ref, ok := r.Binder().(*Ref)
	if !ok {
		r.fail("null, or an object of this process, where a reference to another's should be")
		return nil
	}
	return ref
}

func (r *Reader) isTaken(index int) bool {
	return index/64 < len(r.taken) && r.taken[index/64]&(1<<(index%64)) != 0
}

// FD reads a file descriptor, which belongs to the caller from then on. It is close-on-exec. After an error it is -1.
func (r *Reader) FD() int {
	index := r.objectAt(r.pos)
	b := r.take(flatObjectSize)
	if b == nil {
		return -1
	}
	if index < 0 || objectType(order.Uint32(b)) != typeFD {
		r.fail("no file descriptor where one should be")
		return -1
	}
	if r.isTaken(index) {
		r.fail("file descriptor is read twice")
		return -1
	}
	for index/64 >= len(r.taken) {
		r.taken = append(r.taken, 0)
	}
	r.taken[index/64] |= 1 << (index % 64)
	return int(int32(order.Uint32(b[8:])))
}

// Buffer reads a buffer object and returns its bytes, which lie in the driver's buffer: copy them to keep them.
func (r *Reader) Buffer() []byte {
	index := r.objectAt(r.pos)
	if r.take(bufferObjectSize) == nil {
		return nil
	}
	b := r.bufferOf(index)
	if b == nil {
		r.fail("no buffer where one should be")
	}
	return b
}

// bufferOf returns what the buffer object of that index points to, nil if there is none. An empty buffer is not nil.
func (r *Reader) bufferOf(index int) []byte {
	b, t := r.object(index)
	if b == nil || t != typeBuffer || r.conn == nil {
		return nil
	}
	address, length := order.Uint64(b[8:]), order.Uint64(b[16:])
	if length == 0 {
		return []byte{}
	}
	mem, err := r.conn.mapping.slice(address, length)
	if err != nil {
		return nil
	}
	return mem
}

// FDArray reads an array of file descriptors that lie in a buffer object. The result are duplicates, close-on-exec, which
// belong to the caller: the driver closes the originals with the parcel.
func (r *Reader) FDArray() []int {
	index := r.objectAt(r.pos)
	b := r.take(fdArraySize)
	if b == nil {
		return nil
	}
	if index < 0 || objectType(order.Uint32(b)) != typeFDArray {
		r.fail("no array of file descriptors where one should be")
		return nil
	}
	n, parent, offset := order.Uint64(b[8:]), order.Uint64(b[16:]), order.Uint64(b[24:])
	if n == 0 {
		return []int{}
	}
	if parent >= uint64(index) {
		r.fail("array of file descriptors in object %d of %d", parent, index)
		return nil
	}
	mem := r.bufferOf(int(parent))
	if offset > uint64(len(mem)) || n > (uint64(len(mem))-offset)/4 {
		r.fail("array of %d file descriptors at byte %d of a buffer of %d", n, offset, len(mem))
		return nil
	}
	fds := make([]int, 0, n)
	for i := range n {
		fd, err := unix.FcntlInt(uintptr(order.Uint32(mem[offset+4*i:])), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			for _, fd := range fds {
				closeFD(fd)
			}
			r.err = err
			return nil
		}
		fds = append(fds, fd)
	}
	return fds
}

// closeUntaken closes the descriptors that came with the parcel and that nobody has asked for.
func (r *Reader) closeUntaken() {
	for i := range len(r.offsets) / 8 {
		if b, t := r.object(i); t == typeFD && !r.isTaken(i) {
			closeFD(int(int32(order.Uint32(b[8:]))))
		}
	}
}

func closeFD(fd int) {
	_ = unix.Close(fd) // it was never written to through this descriptor: there is nothing to lose
}

// RefAt returns a reference to object i of the parcel, wherever it stands, and nil if it is none of another process. The caller
// has to release it.
func (r *Reader) RefAt(i int) *Ref {
	b, t := r.object(i)
	if b == nil || t != typeHandle || r.conn == nil {
		r.fail("no reference to another process' object, as object %d", i)
		return nil
	}
	ref, err := r.conn.acquire(uint32(order.Uint64(b[8:])))
	if err != nil {
		r.err = err
		return nil
	}
	return ref
}
