package binder_test

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"corsa.dev/corsa/binderfs/binder"
)

// reread returns a Reader of what has been written. Objects are lost, as they need a driver.
func reread(proto binder.Protocol, p *binder.Parcel) *binder.Reader {
	return binder.NewReader(proto, slices.Clone(binder.Bytes(p)), nil)
}

func TestParcelRoundTrip(t *testing.T) {
	for _, proto := range binder.Protocols {
		p := binder.NewParcel(proto)
		p.WriteInterfaceToken("org.example.IThing")
		p.WriteInt32(math.MinInt32)
		p.WriteInt64(math.MinInt64)
		p.WriteBool(true)
		p.WriteFloat64(1.5)
		p.WriteString16("")
		p.WriteString16("aé𝄞\x00b")
		p.WriteNullString16()
		p.WriteBytes([]byte{1, 2, 3, 4, 5})
		p.WriteStrings16([]string{"x", "yz"})
		p.WriteBinder(nil)
		p.WriteUint32(0xfeedface)
		r := reread(proto, p)
		if err := r.Enforce("org.example.IThing"); err != nil {
			t.Fatalf("%v: token: %v", proto, err)
		}
		if n := r.Int32(); n != math.MinInt32 {
			t.Errorf("%v: int32 %d", proto, n)
		}
		if n := r.Int64(); n != math.MinInt64 {
			t.Errorf("%v: int64 %d", proto, n)
		}
		if !r.Bool() || r.Float64() != 1.5 || r.String16() != "" {
			t.Errorf("%v: bool, float or empty string", proto)
		}
		if s := r.String16(); s != "aé𝄞\x00b" {
			t.Errorf("%v: string %q", proto, s)
		}
		if s, ok := r.NullableString16(); ok || s != "" {
			t.Errorf("%v: null string %q", proto, s)
		}
		if b := r.Bytes(); string(b) != "\x01\x02\x03\x04\x05" {
			t.Errorf("%v: bytes %v", proto, b)
		}
		if l := r.Strings16(); !slices.Equal(l, []string{"x", "yz"}) {
			t.Errorf("%v: strings %q", proto, l)
		}
		if r.Binder() != nil {
			t.Errorf("%v: null binder", proto)
		}
		if n := r.Uint32(); n != 0xfeedface || r.Err() != nil || r.Remaining() != 0 {
			t.Errorf("%v: end %#x, %v, %d bytes left", proto, n, r.Err(), r.Remaining())
		}
	}
}

func TestExceptions(t *testing.T) {
	p := binder.NewParcel(binder.AIDL3)
	p.WriteException(&binder.Exception{Code: binder.ExServiceSpecific, Message: "no", Specific: 7})
	var e *binder.Exception
	if err := reread(binder.AIDL3, p).Exception(); !errors.As(err, &e) || e.Specific != 7 || e.Message != "no" {
		t.Errorf("got %v", err)
	}
	p.Reset()
	p.WriteNoException()
	if err := reread(binder.AIDL3, p).Exception(); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestMatchInterface(t *testing.T) {
	for _, proto := range binder.Protocols {
		p := binder.NewParcel(proto)
		p.WriteInterfaceToken("a.IThing")
		p.WriteInt32(5)
		for _, reader := range binder.Protocols {
			r := reread(reader, p)
			if _, ok := r.MatchInterface("a.IOther"); ok {
				t.Errorf("%v as %v: matches another name", proto, reader)
			}
			if _, ok := r.MatchInterface("a.IThing"); !ok || r.Int32() != 5 || r.Err() != nil {
				t.Errorf("%v as %v: %v, %v", proto, reader, ok, r.Err())
			}
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	int32s := func(list ...int32) []byte {
		var b []byte
		for _, n := range list {
			b = binary.NativeEndian.AppendUint32(b, uint32(n))
		}
		return b
	}
	handle := append(int32s(0x73682a85, 0, 1, 0, 0, 0), int32s(12)...)
	for name, c := range map[string]struct {
		data []byte
		read func(*binder.Reader)
		want error
	}{
		"short":                    {int32s(1)[:3], func(r *binder.Reader) { r.Int32() }, io.ErrUnexpectedEOF},
		"string too long":          {int32s(1<<30, 0), func(r *binder.Reader) { r.String16() }, binder.ErrMalformed},
		"string without end":       {int32s(1, 0x00410041), func(r *binder.Reader) { r.String16() }, binder.ErrMalformed},
		"negative string":          {int32s(-2, 0), func(r *binder.Reader) { r.String16() }, binder.ErrMalformed},
		"null for a string":        {int32s(-1), func(r *binder.Reader) { r.String16() }, binder.ErrMalformed},
		"list too long":            {int32s(1<<30, 0), func(r *binder.Reader) { r.Strings16() }, binder.ErrMalformed},
		"bytes too long":           {int32s(9, 0), func(r *binder.Reader) { r.Bytes() }, io.ErrUnexpectedEOF},
		"handle that is no object": {handle, func(r *binder.Reader) { r.Binder() }, binder.ErrMalformed},
		"fd that is no object":     {int32s(0x66642a85, 0, 1, 0, 0, 0), func(r *binder.Reader) { r.FD() }, binder.ErrMalformed},
		"null for a reference":     {int32s(0x73622a85, 0, 0, 0, 0, 0, 0), func(r *binder.Reader) { r.Ref() }, binder.ErrMalformed},
	} {
		r := binder.NewReader(binder.AIDL3, c.data, nil)
		c.read(r)
		if !errors.Is(r.Err(), c.want) {
			t.Errorf("%s: %v", name, r.Err())
		}
		if r.Int32() != 0 || r.String16() != "" {
			t.Errorf("%s: reads on after the error", name)
		}
	}
}

// FuzzReader has a program of reads run on a parcel of arbitrary bytes with arbitrary objects.
func FuzzReader(f *testing.F) {
	p := binder.NewParcel(binder.AIDL3)
	p.WriteInterfaceToken("a.IThing")
	p.WriteBuffer([]byte("buffer"))
	p.WriteBinder(nil)
	f.Add(uint8(3), binder.Bytes(p), []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, uint64(36), uint64(0))
	f.Add(uint8(1), []byte{}, []byte{8}, uint64(math.MaxUint64), uint64(1))
	f.Fuzz(func(t *testing.T, proto uint8, data, program []byte, a, b uint64) {
		r := binder.NewReader(binder.Protocol(proto), data, []uint64{a, b})
		reads := []func(){
			func() { r.Int32() }, func() { r.Int64() }, func() { r.String16() }, func() { r.NullableString16() }, func() { r.Strings16() },
			func() { r.Bytes() }, func() { r.Binder() }, func() { r.Ref() }, func() { r.FD() }, func() { r.Buffer() }, func() { r.FDArray() },
			func() { r.InterfaceToken() }, func() { r.MatchInterface("a.IThing") },
			func() {
				if err := r.Exception(); err != nil && r.Err() == nil && err.Error() == "" {
					t.Error("nameless exception")
				}
			},
			func() { r.Rewind() },
		}
		for _, op := range program {
			reads[int(op)%len(reads)]()
			if r.Remaining() < 0 {
				t.Fatal("read beyond the end")
			}
		}
		e := binder.Event{Kind: binder.EventRequest, Protocol: binder.Protocol(proto), Code: 1, Data: data, Offsets: []uint64{a, b}}
		var out strings.Builder
		binder.Printer(&out, true)(&e)
		if !strings.HasSuffix(out.String(), "\n") {
			t.Error("no end of line")
		}
	})
}

// FuzzString16 compares with what Go's own conversion gives.
func FuzzString16(f *testing.F) {
	f.Add("a\xffb")
	f.Add("\U0001f600")
	f.Fuzz(func(t *testing.T, s string) {
		p := binder.NewParcel(binder.AIDL)
		p.WriteString16(s)
		p.WriteInt32(1)
		r := reread(binder.AIDL, p)
		if got, want := r.String16(), string([]rune(s)); got != want || r.Int32() != 1 || r.Err() != nil {
			t.Errorf("%q became %q, %v", s, got, r.Err())
		}
	})
}

func BenchmarkParcel(b *testing.B) {
	p := binder.NewParcel(binder.AIDL3)
	n := rand.Int64()
	b.ReportAllocs()
	for b.Loop() {
		p.Reset()
		p.WriteInterfaceToken("org.example.IThing")
		p.WriteInt64(n)
	}
}
