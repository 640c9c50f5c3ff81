package binder

import (
	"math"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// Parcel is what a transaction or its reply carries: values one after the other, each at a multiple of four bytes, and
// objects: references, file descriptors, buffers. The zero value is an empty parcel in the AIDL3 format. A Parcel may be
// used again after Reset, and sent any number of times. It must not be changed while it is being sent.
type Parcel struct {
	protocol Protocol
	data     []byte
	offsets  []uint64 // of the objects in data
	buffers  [][]byte // what buffer objects point to, so that it stays where it is
	sgSize   uint64   // room that the buffers need at the receiver
	foreign  bool     // data and offsets are another's: see Forward
	copied   bool     // but data is not any more
}

// NewParcel returns an empty parcel in the given format.
func NewParcel(p Protocol) *Parcel { return &Parcel{protocol: p} }

// Reset empties the parcel and keeps its memory and its format.
func (p *Parcel) Reset() {
	clear(p.buffers)
	if p.foreign {
		p.data, p.offsets, p.foreign, p.copied = nil, nil, false, false
	}
	p.data, p.offsets, p.buffers, p.sgSize = p.data[:0], p.offsets[:0], p.buffers[:0], 0
}

// Len returns the size of the parcel in bytes, without buffer objects.
func (p *Parcel) Len() int { return len(p.data) }

func (p *Parcel) format() Protocol {
	if p.protocol == 0 {
		return AIDL3
	}
	return p.protocol
}

func (p *Parcel) align() {
	for len(p.data)%4 != 0 {
		p.data = append(p.data, 0)
	}
}

// WriteInt32 appends a 32-bit integer.
func (p *Parcel) WriteInt32(v int32) { p.data = order.AppendUint32(p.data, uint32(v)) }

// WriteUint32 appends a 32-bit integer.
func (p *Parcel) WriteUint32(v uint32) { p.data = order.AppendUint32(p.data, v) }

// WriteInt64 appends a 64-bit integer.
func (p *Parcel) WriteInt64(v int64) { p.data = order.AppendUint64(p.data, uint64(v)) }

// WriteUint64 appends a 64-bit integer.
func (p *Parcel) WriteUint64(v uint64) { p.data = order.AppendUint64(p.data, v) }

// WriteFloat64 appends a number in IEEE 754 format.
func (p *Parcel) WriteFloat64(v float64) { p.WriteUint64(math.Float64bits(v)) }

// WriteBool appends a boolean, which takes a 32-bit integer.
func (p *Parcel) WriteBool(v bool) {
	var n int32
	if v {
		n = 1
	}
	p.WriteInt32(n)
}

// WriteString16 appends a string in UTF-16, as AIDL has it. What is not valid UTF-8 becomes U+FFFD.
func (p *Parcel) WriteString16(s string) {
	at := len(p.data)
	p.WriteInt32(0)
	units := 0
	for _, r := range s {
		if a, b := utf16.EncodeRune(r); a != utf8.RuneError {
			p.data = order.AppendUint16(order.AppendUint16(p.data, uint16(a)), uint16(b))
			units += 2
			continue
		}
		p.data = order.AppendUint16(p.data, uint16(r))
		units++
	}
	p.data = order.AppendUint16(p.data, 0)
	order.PutUint32(p.data[at:], uint32(units))
	p.align()
}

// WriteNullString16 appends the null string.
func (p *Parcel) WriteNullString16() { p.WriteInt32(-1) }

// WriteStrings16 appends a list of strings.
func (p *Parcel) WriteStrings16(list []string) {
	p.WriteInt32(int32(len(list)))
	for _, s := range list {
		p.WriteString16(s)
	}
}

// WriteBytes appends a byte array: its length, the bytes, and padding.
func (p *Parcel) WriteBytes(b []byte) {
	p.WriteInt32(int32(len(b)))
	p.data = append(p.data, b...)
	p.align()
}

// WriteRaw appends bytes without their length, and padding.
func (p *Parcel) WriteRaw(b []byte) {
	p.data = append(p.data, b...)
	p.align()
}

// WriteInterfaceToken appends the header with which a request to an AIDL interface begins.
func (p *Parcel) WriteInterfaceToken(name string) {
	p.WriteUint32(strictModeGather)
	if n := p.format().tokenHeader(); n >= 2 {
		p.WriteUint32(unsetWorkSource)
		if n >= 3 {
			p.WriteUint32(headerSystem)
		}
	}
	p.WriteString16(name)
}

// WriteNoException appends what a reply of a generated AIDL interface begins with when all went well.
func (p *Parcel) WriteNoException() { p.WriteInt32(0) }

// WriteException makes the parcel the reply of a generated AIDL interface that failed.
func (p *Parcel) WriteException(e *Exception) {
	p.Reset()
	p.WriteInt32(int32(e.Code))
	p.WriteString16(e.Message)
	p.WriteInt32(0) // no remote stack trace
	if e.Code == ExServiceSpecific {
		p.WriteInt32(e.Specific)
	}
}

// object notes that the next bytes are an object.
func (p *Parcel) object() { p.offsets = append(p.offsets, uint64(len(p.data))) }

func (p *Parcel) flatObject(t objectType, flags uint32, value, cookie uint64) {
	p.data = order.AppendUint32(p.data, uint32(t))
	p.data = order.AppendUint32(p.data, flags)
	p.data = order.AppendUint64(p.data, value)
	p.data = order.AppendUint64(p.data, cookie)
}

// WriteBinder appends a strong reference: to an Object of this process, a Ref to one of another, or nil. The parcel does
// not keep them: a Ref must not be released before the parcel has been sent.
func (p *Parcel) WriteBinder(b Binder) {
	switch b := b.(type) {
	case *Object:
		p.object()
		p.flatObject(typeBinder, objectPriorityMask|objectAcceptsFDs, b.id, b.id)
	case *Ref:
		p.object()
		p.flatObject(typeHandle, objectPriorityMask|objectAcceptsFDs, uint64(b.handle), 0)
	case nil:
		p.flatObject(typeBinder, 0, 0, 0) // a null is no object for the driver
	}
	if f := p.format(); f.hasStability() {
		p.WriteUint32(f.stability(b == nil))
	}
}

// WriteFD appends a file descriptor. The receiver gets a duplicate; the caller keeps fd and must not close it before the
// parcel has been sent.
func (p *Parcel) WriteFD(fd int) {
	p.object()
	p.flatObject(typeFD, objectPriorityMask|objectAcceptsFDs, uint64(uint32(fd)), 0)
}

// Buffer names a buffer object within its parcel: its index in the order of objects.
type Buffer int

// WriteBuffer appends a buffer object: bytes that lie beside the parcel's data. b is not copied before the parcel is sent. The
// driver refuses pointers and descriptors into a buffer whose object is the very first thing in a parcel; there usually is
// an interface token before it.
func (p *Parcel) WriteBuffer(b []byte) Buffer { return p.buffer(b, 0, 0, 0) }

// WriteBufferIn appends a buffer object and has the driver write its address into an earlier one, at offset. These pointers
// have to be written in ascending order.
func (p *Parcel) WriteBufferIn(parent Buffer, offset int, b []byte) Buffer {
	return p.buffer(b, bufferHasParent, uint64(parent), uint64(offset))
}

func (p *Parcel) buffer(b []byte, flags uint32, parent, offset uint64) Buffer {
	index := Buffer(len(p.offsets))
	p.object()
	var address uint64
	if len(b) > 0 {
		address = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
	}
	p.data = order.AppendUint32(p.data, uint32(typeBuffer))
	p.data = order.AppendUint32(p.data, flags)
	for _, v := range [...]uint64{address, uint64(len(b)), parent, offset} {
		p.data = order.AppendUint64(p.data, v)
	}
	p.buffers = append(p.buffers, b)
	p.sgSize += uint64(len(b)+7) &^ 7
	return index
}

// WriteFDArray has the driver translate n file descriptors that lie in an earlier buffer object, as 32-bit numbers, at
// offset.
func (p *Parcel) WriteFDArray(parent Buffer, offset, n int) {
	p.object()
	p.data = order.AppendUint32(p.data, uint32(typeFDArray))
	p.data = order.AppendUint32(p.data, 0)
	for _, v := range [...]uint64{uint64(n), uint64(parent), uint64(offset)} {
		p.data = order.AppendUint64(p.data, v)
	}
}

// command appends the command that sends the parcel. The parcel has to stay as it is until the driver has consumed it.
func (p *Parcel) command(out []byte, plain, sg command, t *transactionData) []byte {
	t.dataSize, t.offsetsSize = uint64(len(p.data)), uint64(len(p.offsets)*8)
	if len(p.data) > 0 {
		t.buffer = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p.data))))
	}
	if len(p.offsets) > 0 {
		t.offsets = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p.offsets))))
	}
	if p.sgSize == 0 {
		return t.append(order.AppendUint32(out, uint32(plain)))
	}
	return order.AppendUint64(t.append(order.AppendUint32(out, uint32(sg))), p.sgSize)
}
