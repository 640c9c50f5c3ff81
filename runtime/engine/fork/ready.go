package fork

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/unix"
)

// wait is a call in which a thread waits for descriptors: its number, or 0, and its first four arguments.
type wait struct {
	nr   uint64
	args [4]uint64
}

// waitOf is the call that the stopped thread is in, or has been kept from entering. The registers have not been rewound.
func waitOf(r *regs) wait {
	nr := r.Orig_rax
	if int64(nr) < 0 {
		nr = r.Rax // put off: see putOff
	}
	switch nr {
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_POLL, unix.SYS_PPOLL, unix.SYS_SELECT, unix.SYS_PSELECT6:
		return wait{nr, [4]uint64{r.Rdi, r.Rsi, r.Rdx, r.R10}}
	}
	return wait{}
}

// Ready implements engine.SocketHolder.
func (in *instance) Ready() bool {
	for i := range in.tracee.threads {
		if in.returns(&in.tracee.threads[i].waits) {
			return true
		}
	}
	return false
}

// returns reports whether the call would return at once.
func (in *instance) returns(w *wait) bool {
	switch w.nr {
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2:
		return in.polls(int(int32(w.args[0])), unix.POLLIN)
	case unix.SYS_POLL, unix.SYS_PPOLL:
		var b [8]byte
		for i := range min(w.args[1], 1024) {
			if readMem(in.a.PID, w.args[0]+8*i, b[:]) != nil {
				return false
			}
			fd := int(int32(binary.LittleEndian.Uint32(b[:])))
			if fd >= 0 && in.polls(fd, int16(binary.LittleEndian.Uint16(b[4:]))) {
				return true
			}
		}
	case unix.SYS_SELECT, unix.SYS_PSELECT6:
		for set, events := range [...]int16{unix.POLLIN, unix.POLLOUT, unix.POLLPRI} {
			if at := w.args[1+set]; at != 0 && in.selects(at, w.args[0], events) {
				return true
			}
		}
	}
	return false
}

// selects is returns for one of the sets of select.
func (in *instance) selects(at, n uint64, events int16) bool {
	var b [8]byte
	for first := uint64(0); first < min(n, 1024); first += 64 {
		if readMem(in.a.PID, at+first/8, b[:]) != nil {
			return false
		}
		for word := binary.LittleEndian.Uint64(b[:]); word != 0; word &= word - 1 {
			if fd := first + uint64(bits.TrailingZeros64(word)); fd < n && in.polls(int(fd), events) {
				return true
			}
		}
	}
	return false
}

// polls reports whether poll would report one of the events, an error or a hang-up for the instance's descriptor.
func (in *instance) polls(fd int, events int16) bool {
	own, err := unix.PidfdGetfd(in.a.pidfd, fd, 0)
	if err != nil {
		return false
	}
	defer unix.Close(own)
	p := [1]unix.PollFd{{Fd: int32(own), Events: events}}
	n, err := unix.Poll(p[:], 0)
	return n > 0 && err == nil
}
