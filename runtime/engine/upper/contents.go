package upper

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// Contents makes the empty file to hold what is in the first size bytes of from: by sharing blocks where the file system can
// do that, else by copying, without filling holes. Nobody may write to from meanwhile. buf is for the reads that may be
// needed; a nil one is made.
func Contents(from, to int, size int64, buf *[]byte) error {
	if size == 0 {
		return nil
	}
	if unix.IoctlFileClone(to, from) == nil {
		return nil
	}
	if err := unix.Ftruncate(to, size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		data, err := unix.Seek(from, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // a hole up to the end
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(from, data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if end = min(end, size); data < end {
			if err := span(from, to, data, end, buf); err != nil {
				return err
			}
		}
		at = end
	}
	return nil
}

// span copies the bytes from at to end.
func span(from, to int, at, end int64, buf *[]byte) error {
	for at < end {
		in, out := at, at
		n, err := unix.CopyFileRange(from, &in, to, &out, int(min(end-at, 1<<30)), 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 { // between file systems, for example
			return spanByHand(from, to, at, end, buf)
		}
		at += int64(n)
	}
	return nil
}

func spanByHand(from, to int, at, end int64, buf *[]byte) error {
	if *buf == nil {
		*buf = make([]byte, 256<<10)
	}
	for at < end {
		b := (*buf)[:min(end-at, int64(len(*buf)))]
		n, err := unix.Pread(from, b, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		for b = b[:n]; len(b) > 0; {
			m, err := unix.Pwrite(to, b, at)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			at, b = at+int64(max(m, 0)), b[max(m, 0):]
		}
	}
	return nil
}
