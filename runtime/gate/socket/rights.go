package socket

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	errTruncated  = errors.New("descriptors in flight were lost because this process has no room for them; raise its RLIMIT_NOFILE")
	errCarriesNot = errors.New("the other end is not a unix socket and cannot take the descriptors in flight")
)

// An envelope holds what recvmsg and sendmsg need, so that neither allocates.
type envelope struct {
	hdr unix.Msghdr
	iov unix.Iovec
	ctl [1040]byte // room for SCM_MAX_FD descriptors: CMSG_SPACE(253*4) = 1032
	fds []int      // descriptors of the last message; valid until the next receive
	err error      // why the last message cannot be passed on
}

// receive reads into p and leaves descriptors that came along in v.fds; they belong to the caller.
func (v *envelope) receive(fd int, p []byte, flags int) (int, unix.Errno) {
	h := v.prepare(p)
	for {
		r, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(h)),
			uintptr(unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC|flags))
		if e == unix.EINTR {
			continue
		}
		if e == 0 && (h.Controllen > 0 || h.Flags&unix.MSG_CTRUNC != 0) {
			v.parse()
		}
		return int(r), e
	}
}

// await is receive that waits for bytes as long as the socket's SO_RCVTIMEO says.
func (v *envelope) await(fd int, p []byte) (int, unix.Errno) {
	h := v.prepare(p)
	r, _, e := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(h)), unix.MSG_CMSG_CLOEXEC)
	if e == 0 && (h.Controllen > 0 || h.Flags&unix.MSG_CTRUNC != 0) {
		v.parse()
	}
	return int(r), e
}

func (v *envelope) prepare(p []byte) *unix.Msghdr {
	v.iov.Base = unsafe.SliceData(p)
	v.iov.SetLen(len(p))
	h := &v.hdr
	h.Iov, h.Iovlen = &v.iov, 1
	h.Control = &v.ctl[0]
	h.SetControllen(len(v.ctl))
	v.fds, v.err = v.fds[:0], nil
	return h
}

func (v *envelope) parse() {
	if v.hdr.Flags&unix.MSG_CTRUNC != 0 {
		v.err = errTruncated
	}
	for b := v.ctl[:v.hdr.Controllen]; len(b) >= unix.CmsgLen(0); {
		c := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		n := int(c.Len)
		if n < unix.CmsgLen(0) || n > len(b) {
			return
		}
		if c.Level == unix.SOL_SOCKET && c.Type == unix.SCM_RIGHTS {
			for d := b[unix.CmsgLen(0):n]; len(d) >= 4; d = d[4:] {
				v.fds = append(v.fds, int(*(*int32)(unsafe.Pointer(&d[0]))))
			}
		}
		b = b[min(unix.CmsgSpace(n-unix.CmsgLen(0)), len(b)):]
	}
}

// send writes p with fds attached to its first byte. The descriptors stay the caller's.
func (v *envelope) send(fd int, p []byte, fds []int) (int, unix.Errno) {
	v.iov.Base = unsafe.SliceData(p)
	v.iov.SetLen(len(p))
	h := &v.hdr
	h.Iov, h.Iovlen, h.Flags = &v.iov, 1, 0
	h.Control = &v.ctl[0]
	h.SetControllen(unix.CmsgSpace(4 * len(fds)))
	c := (*unix.Cmsghdr)(unsafe.Pointer(&v.ctl[0]))
	c.Level, c.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	c.SetLen(unix.CmsgLen(4 * len(fds)))
	for i, d := range fds {
		*(*int32)(unsafe.Pointer(&v.ctl[unix.CmsgLen(0)+4*i])) = int32(d)
	}
	for {
		r, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

// A stash is the byte that descriptors are attached to, read before its turn.
type stash struct {
	fds  []int // empty: nothing is stashed
	byte byte
	rest int // bytes that follow in the same message, at most
}

const apartLimit = 4096 // single bytes read at a time, to bound what one connection can cost the others

// receiveApart is receive for a socket that may carry descriptors: the byte that they are attached to always comes
// first. The kernel itself glues plain bytes to a following message with descriptors, and a peer that reads those bytes
// without looking for descriptors would lose them. A peek tells that descriptors are coming, but not at which
// byte, so that the bytes before them are read one by one.
func (v *envelope) receiveApart(fd int, p []byte, st *stash) (int, unix.Errno) {
	if len(st.fds) > 0 {
		p[0] = st.byte
		return v.receiveRest(fd, p, st.fds, st), 0
	}
	n, e := v.receive(fd, p, unix.MSG_PEEK)
	if e != 0 || n == 0 {
		return n, e
	}
	if len(v.fds) == 0 {
		return v.receive(fd, p[:n], 0)
	}
	closeAll(v.fds)
	for i := range min(n, apartLimit) {
		k, e := v.receive(fd, p[i:i+1], 0)
		if e != 0 || k == 0 {
			return i, 0 // someone else reads this socket too; what there is, is passed on
		}
		if len(v.fds) == 0 {
			continue
		}
		st.rest = n - i - 1
		if i == 0 {
			return v.receiveRest(fd, p, v.fds, st), 0
		}
		st.fds, st.byte = append(st.fds[:0], v.fds...), p[i]
		v.fds = v.fds[:0]
		return i, 0
	}
	return min(n, apartLimit), 0
}

// receiveRest adds what follows p[0] in the same message and leaves fds in v.fds.
func (v *envelope) receiveRest(fd int, p []byte, fds []int, st *stash) int {
	n := 1
	broken := v.err
	if len(st.fds) == 0 {
		st.fds = append(st.fds, fds...)
	}
	if st.rest > 0 {
		if k, e := v.receive(fd, p[1:1+min(st.rest, len(p)-1)], 0); e == 0 {
			n += k
		}
	}
	v.fds = append(v.fds, st.fds...)
	if v.err == nil {
		v.err = broken
	}
	st.fds, st.rest = st.fds[:0], 0
	return n
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
