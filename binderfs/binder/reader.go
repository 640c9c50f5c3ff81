package binder

import (
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf16"
)

// Reader reads a parcel that came from another process. Its methods return the zero value once something was wrong, and Err
// tells what was: it is enough to ask at the end. A Reader sees the driver's buffer itself: it is valid as long as the
// Transaction or the Reply that it belongs to, and nothing that it returns refers to the buffer except what says so.
type Reader struct {
	conn     *Conn // nil: references cannot be read
	protocol Protocol
	data     []byte
	offsets  []byte // 64-bit offsets of the objects in data, ascending
	pos      int
	taken    []uint64 // bit i: the descriptor of object i belongs to the caller now
	err      error
}

// NewReader returns a Reader of bytes that did not come from the driver, with objects at offsets. References in it cannot be
// read and descriptors are taken as they are.
func NewReader(p Protocol, data []byte, offsets []uint64) *Reader {
	var b []byte
	for _, o := range offsets {
		b = order.AppendUint64(b, o)
	}
	return &Reader{protocol: p, data: data, offsets: b}
}

func (r *Reader) reset(c *Conn, p Protocol, data, offsets []byte) {
	r.conn, r.protocol, r.data, r.offsets = c, p, data, offsets
	r.pos, r.err, r.taken = 0, nil, r.taken[:0]
}

// Err returns what went wrong first: io.ErrUnexpectedEOF if more was read than there is, or an error that is ErrMalformed.
func (r *Reader) Err() error { return r.err }

// Len returns the size of the parcel in bytes; Remaining what is left of it.
func (r *Reader) Len() int { return len(r.data) }

// Remaining returns how many bytes have not been read.
func (r *Reader) Remaining() int { return len(r.data) - r.pos }

// Rewind starts again at the beginning and forgets the error. Descriptors that were read stay the caller's.
func (r *Reader) Rewind() { r.pos, r.err = 0, nil }

func (r *Reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w parcel: %s at byte %d", ErrMalformed, fmt.Sprintf(format, args...), r.pos)
	}
}

// take returns the next n bytes and skips their padding.
func (r *Reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.data)-r.pos {
		r.err = fmt.Errorf("parcel of %d bytes, %d more at byte %d: %w", len(r.data), n, r.pos, io.ErrUnexpectedEOF)
		return nil
	}
	b := r.data[r.pos : r.pos+n : r.pos+n]
	r.pos = min(r.pos+(n+3)&^3, len(r.data))
	return b
}

// Int32 reads a 32-bit integer.
func (r *Reader) Int32() int32 { return int32(r.Uint32()) }

// Uint32 reads a 32-bit integer.
func (r *Reader) Uint32() uint32 {
	if b := r.take(4); b != nil {
		return order.Uint32(b)
	}
	return 0
}

// Int64 reads a 64-bit integer.
func (r *Reader) Int64() int64 { return int64(r.Uint64()) }

// Uint64 reads a 64-bit integer.
func (r *Reader) Uint64() uint64 {
	if b := r.take(8); b != nil {
		return order.Uint64(b)
	}
	return 0
}

// Float64 reads a number in IEEE 754 format.
func (r *Reader) Float64() float64 { return math.Float64frombits(r.Uint64()) }

// Bool reads a boolean.
func (r *Reader) Bool() bool { return r.Int32() != 0 }

// String16 reads a string. The null string is an error; see NullableString16.
func (r *Reader) String16() string {
	s, ok := r.NullableString16()
	if !ok {
		r.fail("null where a string should be")
	}
	return s
}

// NullableString16 reads a string and tells whether there was one. Halves of surrogate pairs become U+FFFD.
func (r *Reader) NullableString16() (string, bool) {
	n := int(r.Int32())
	if r.err != nil || n == -1 {
		return "", false
	}
	if n < 0 || n > r.Remaining()/2 {
		r.fail("string of length %d", n)
		return "", false
	}
	b := r.take(2*n + 2)
	if b == nil {
		return "", false
	}
	if b[2*n] != 0 || b[2*n+1] != 0 {
		r.fail("string without an end")
		return "", false
	}
	var s strings.Builder
	s.Grow(n)
	for i := 0; i < n; i++ {
		u := rune(order.Uint16(b[2*i:]))
		if utf16.IsSurrogate(u) {
			pair := rune(0xfffd)
			if i+1 < n {
				pair = utf16.DecodeRune(u, rune(order.Uint16(b[2*i+2:])))
			}
			if pair != 0xfffd {
				i++
			}
			u = pair
		}
		s.WriteRune(u)
	}
	return s.String(), true
}

// Strings16 reads a list of strings; null is an empty list.
func (r *Reader) Strings16() []string {
	n := int(r.Int32())
	if r.err != nil || n <= 0 {
		return nil
	}
	if n > r.Remaining()/8 { // a string takes no less
		r.fail("list of %d strings", n)
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, r.String16())
	}
	if r.err != nil {
		return nil
	}
	return list
}

// Bytes reads a byte array; null is nil. The result lies in the driver's buffer: copy it to keep it.
func (r *Reader) Bytes() []byte {
	n := int(r.Int32())
	if r.err != nil || n == -1 {
		return nil
	}
	return r.take(n)
}

// Raw reads n bytes and their padding. The result lies in the driver's buffer: copy it to keep it.
func (r *Reader) Raw(n int) []byte { return r.take(n) }

// InterfaceToken reads the header of a request to an AIDL interface and returns the interface's name.
func (r *Reader) InterfaceToken() string {
	words := r.protocol.tokenHeader()
	for i := range words {
		if w := r.Uint32(); i == 2 && w != headerSystem && w != headerVendor && r.err == nil {
			r.fail("header %#x of an interface token", w)
		}
	}
	return r.String16()
}

// Enforce reads an interface token and returns StatusBadType if it is not name's.
func (r *Reader) Enforce(name string) error {
	if got := r.InterfaceToken(); r.err != nil || got != name {
		return StatusBadType
	}
	return nil
}

// MatchInterface tries to read an interface token of that name in any protocol, and returns the first that fits. If none
// does, nothing was read. Several protocols fit where their parcels do not differ.
func (r *Reader) MatchInterface(name string) (Protocol, bool) {
	pos, err, protocol := r.pos, r.err, r.protocol
	defer func() { r.protocol = protocol }()
	for _, p := range []Protocol{protocol, AIDL3, AIDL2, AIDL} {
		r.pos, r.err, r.protocol = pos, err, p
		if p != 0 && r.InterfaceToken() == name && r.err == nil {
			return p, true
		}
	}
	r.pos, r.err = pos, err
	return 0, false
}

// Exception reads the beginning of the reply of a generated AIDL interface. If it is not about a result, the error is an
// *Exception.
func (r *Reader) Exception() error {
	code := ExceptionCode(r.Int32())
	if code == exReplyHeader && r.err == nil {
		at, size := r.pos, int(r.Int32())
		if size < 4 || size > len(r.data)-at {
			r.fail("reply header of %d bytes", size)
		} else {
			r.pos, code = at+size, ExNone
		}
	}
	if r.err != nil || code == ExNone {
		return r.err
	}
	e := &Exception{Code: code}
	e.Message, _ = r.NullableString16()
	if trace := r.Int32(); trace > 0 {
		r.take(int(trace))
	}
	if code == ExServiceSpecific {
		e.Specific = r.Int32()
	}
	return e
}
