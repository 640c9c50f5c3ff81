package broker_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller is a service as some of Android's are: one thread, which waits for the device by epoll. It is written against the
// driver, as this repository's library waits in the driver.
type poller struct {
	fd    int
	mem   []byte
	base  uint64
	out   []byte
	total uint64
}

// The driver's numbers; see linux/android/binder.h.
const (
	pollWriteRead     = 0xc0306201
	pollTransaction   = 0x80407202
	pollReply         = 0x80407203
	pollIncRefs       = 0x80107207
	pollAcquire       = 0x80107208
	pollEnterLooper   = 0x630c
	pollBCTransaction = 0x40406300
	pollBCReply       = 0x40406301
	pollFreeBuffer    = 0x40086303
	pollIncRefsDone   = 0x40106308
	pollAcquireDone   = 0x40106309
	pollObject        = 's'<<24 | 'b'<<16 | '*'<<8 | 0x85
)

var native = binary.NativeEndian

func servePoller(device string) error {
	runtime.LockOSThread() // the driver knows threads
	s := &poller{}
	var err error
	if s.fd, err = unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
		return err
	}
	if s.mem, err = unix.Mmap(s.fd, 0, 128<<10, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_NORESERVE); err != nil {
		return err
	}
	s.base = uint64(uintptr(unsafe.Pointer(&s.mem[0])))
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	s.out = native.AppendUint32(s.out, pollEnterLooper)
	data, offsets := addServiceParcel()
	s.send(pollBCTransaction, 3, 0x10, data, offsets) // addService
	err = s.exchange()
	runtime.KeepAlive(data)
	runtime.KeepAlive(offsets)
	if err != nil {
		return err
	}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, s.fd, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return err
	}
	fmt.Println("ready")
	for events := make([]unix.EpollEvent, 4); ; {
		if _, err := unix.EpollWait(ep, events, -1); err != nil && err != unix.EINTR {
			return err
		}
		if err := s.exchange(); err != nil {
			return err
		}
	}
}

// addServiceParcel is the request, and where its object is.
func addServiceParcel() (data []byte, offsets []uint64) {
	text := func(s string) {
		units := utf16.Encode([]rune(s))
		data = native.AppendUint32(data, uint32(len(units)))
		for _, u := range append(units, 0) {
			data = native.AppendUint16(data, u)
		}
		for len(data)%4 != 0 {
			data = append(data, 0)
		}
	}
	for _, v := range []uint32{0, 0xffffffff, 'S'<<24 | 'Y'<<16 | 'S'<<8 | 'T'} {
		data = native.AppendUint32(data, v)
	}
	text("android.os.IServiceManager")
	text(serviceName)
	offsets = append(offsets, uint64(len(data)))
	data = native.AppendUint32(native.AppendUint32(data, pollObject), 0x17f)
	data = native.AppendUint64(native.AppendUint64(data, 0x1000), 0x2000)
	for _, v := range []uint32{0x0c, 0, 8} { // stability, not for isolated processes, priority
		data = native.AppendUint32(data, v)
	}
	return data, offsets
}

// send queues a transaction or a reply. What it points to has to stay until the next exchange.
func (s *poller) send(command, code, flags uint32, data []byte, offsets []uint64) {
	s.out = native.AppendUint32(s.out, command)
	s.out = native.AppendUint64(native.AppendUint64(s.out, 0), 0)
	s.out = native.AppendUint32(native.AppendUint32(s.out, code), flags)
	s.out = native.AppendUint64(s.out, 0)
	s.out = native.AppendUint64(native.AppendUint64(s.out, uint64(len(data))), uint64(8*len(offsets)))
	s.out = native.AppendUint64(s.out, uint64(uintptr(unsafe.Pointer(unsafe.SliceData(data)))))
	s.out = native.AppendUint64(s.out, uint64(uintptr(unsafe.Pointer(unsafe.SliceData(offsets)))))
}

// exchange talks to the driver until it has nothing to say.
func (s *poller) exchange() error {
	for {
		in := make([]byte, 512)
		bwr := [6]uint64{
			uint64(len(s.out)), 0, uint64(uintptr(unsafe.Pointer(unsafe.SliceData(s.out)))), uint64(len(in)), 0,
			uint64(uintptr(unsafe.Pointer(&in[0]))),
		}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), pollWriteRead, uintptr(unsafe.Pointer(&bwr)))
		s.out = append([]byte(nil), s.out[bwr[1]:]...)
		if errno == unix.EAGAIN && len(s.out) == 0 {
			return nil
		}
		if errno != 0 && errno != unix.EINTR && errno != unix.EAGAIN {
			return errno
		}
		s.handle(in[:bwr[4]])
	}
}

// answer is what a reply points to.
var answer [8]byte

func (s *poller) handle(in []byte) {
	for len(in) >= 4 {
		command := native.Uint32(in)
		payload := in[4 : 4+command>>16&0x3fff]
		in = in[4+len(payload):]
		switch command {
		case pollIncRefs, pollAcquire:
			done := uint32(pollIncRefsDone)
			if command == pollAcquire {
				done = pollAcquireDone
			}
			s.out = append(native.AppendUint32(s.out, done), payload...)
		case pollReply:
			s.out = append(native.AppendUint32(s.out, pollFreeBuffer), payload[48:56]...)
		case pollTransaction:
			buffer, flags := native.Uint64(payload[48:]), native.Uint32(payload[20:])
			if native.Uint32(payload[16:]) == codeAdd {
				s.total += native.Uint64(s.mem[buffer-s.base:])
			}
			s.out = native.AppendUint64(native.AppendUint32(s.out, pollFreeBuffer), buffer)
			if flags&1 == 0 {
				native.PutUint64(answer[:], s.total)
				s.send(pollBCReply, 0, 0, answer[:], nil)
			}
		}
	}
}

// A service of one thread that waits by epoll is woken in its instances, and captured and restored like others.
func TestPoller(t *testing.T) {
	w := prepareWorldOf(t, "poller", nil)
	w.adopt()
	w.serve()
	one, two := w.app(2001), w.app(2002)
	for n := 1; n <= 3; n++ {
		one.want("ok", "add", 1)
		two.want("ok", "add", 10)
	}
	w.await("all is added up", func() bool { return one.ask("total") == "3" && two.ask("total") == "30" })
	if err := w.checkpoint("uid:2001"); err != nil {
		t.Fatal(err)
	}
	one.want("ok", "add", 5)
	w.await("it is added", func() bool { return one.ask("total") == "8" })
	for range 2 {
		if err := w.restore("uid:2001"); err != nil {
			t.Fatal(err)
		}
		one.want("3", "total")
	}
	two.want("30", "total")
}
