package binder

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapping is the memory into which the driver copies what a Conn receives. It stays until the Conn is closed and the last
// Reply that lies in it is released.
type mapping struct {
	mem   []byte
	base  uint64
	users atomic.Int64 // the Conn and each Reply that holds a buffer
}

func newMapping(fd, size int) (*mapping, error) {
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", size, err)
	}
	m := &mapping{mem: mem, base: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))}
	m.users.Store(1)
	return m, nil
}

// slice returns the bytes at an address that the driver has told.
func (m *mapping) slice(address, size uint64) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	at := address - m.base
	if address < m.base || at > uint64(len(m.mem)) || size > uint64(len(m.mem))-at {
		return nil, fmt.Errorf("%w: %d bytes at %#x do not lie in the buffer of %d bytes", ErrMalformed, size, address, len(m.mem))
	}
	return m.mem[at : at+size : at+size], nil
}

func (m *mapping) hold() { m.users.Add(1) }

// drop ends one use. The last one unmaps.
func (m *mapping) drop() {
	if m.users.Add(-1) == 0 {
		_ = unix.Munmap(m.mem) // fails only for what is no mapping
	}
}

// close ends the Conn's use. As the mapping keeps the open device alive, and with it the process in the eyes of its peers,
// zeroes take its place for the Replies that are still held.
func (m *mapping) close() error {
	if m.users.Load() == 1 {
		m.drop()
		return nil
	}
	addr, err := unix.MmapPtr(-1, 0, unsafe.Pointer(unsafe.SliceData(m.mem)), uintptr(len(m.mem)), unix.PROT_READ,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|unix.MAP_FIXED)
	if err == nil && addr != unsafe.Pointer(unsafe.SliceData(m.mem)) {
		err = fmt.Errorf("mapped at %p", addr)
	}
	m.drop()
	return err
}
