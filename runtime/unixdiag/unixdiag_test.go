package unixdiag

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAsk(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]unix.Stat_t
	for i, fd := range pair {
		defer unix.Close(fd)
		if err := unix.Fstat(fd, &ends[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Shutdown(pair[0], unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	fd, err := Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	reply := make([]byte, ReplySize)
	if s, err := Ask(fd, ends[0].Ino, reply); err != nil || s.Peer != ends[1].Ino || s.Shutdown != 2 {
		t.Errorf("got %+v, %v; the peer is %d", s, err, ends[1].Ino)
	}
	if s, err := Ask(fd, 1, reply); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a socket that there is not: %+v, %v", s, err)
	}
}

// What is cut off or makes no sense is an error or nothing, never a panic.
func TestGarbage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		b := make([]byte, rng.IntN(64))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if len(b) >= 6 {
			binary.NativeEndian.PutUint16(b[4:], byFamily)
		}
		_, _ = parse(b) // only that it returns matters
	}
}
