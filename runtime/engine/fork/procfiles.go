package fork

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// procFiles are files of /proc/PID that every checkpoint reads while the instance stands still. To open one takes longer than to read
// it, so they are kept, as many as looks allows. They are of that process for good, whoever gets its pid.
type procFiles struct {
	pid  int
	kept [procCount]int // one more than the descriptor; 0: none
}

// procFile is one of them.
type procFile int

const (
	procMaps procFile = iota
	procStatm
	procTimers
	procLimits
	procFD
	procFDInfo
	procCount
)

var procNames = [procCount]string{"maps", "statm", "timers", "limits", "fd", "fdinfo"}

// open returns a descriptor that the caller gives back to done.
func (p *procFiles) open(f procFile) (int, error) {
	if fd := p.kept[f]; fd > 0 {
		return fd - 1, nil
	}
	fd, err := unix.Open("/proc/"+strconv.Itoa(p.pid)+"/"+procNames[f], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if looks.Add(1) <= looksAllowed() {
		p.kept[f] = fd + 1
	} else {
		looks.Add(-1)
	}
	return fd, nil
}

func (p *procFiles) done(f procFile, fd int) {
	if p.kept[f] != fd+1 {
		unix.Close(fd)
	}
}

// read appends the file's text to buf.
func (p *procFiles) read(f procFile, buf []byte) ([]byte, error) {
	fd, err := p.open(f)
	if err != nil {
		return nil, err
	}
	defer p.done(f, fd)
	begin := len(buf)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Pread(fd, buf[len(buf):cap(buf)], int64(len(buf)-begin))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, fmt.Errorf("/proc/%d/%s: %w", p.pid, procNames[f], err)
		case n == 0:
			return buf, nil
		default:
			buf = buf[:len(buf)+n]
		}
	}
}

func (p *procFiles) close() {
	for i, fd := range p.kept {
		if fd > 0 {
			unix.Close(fd - 1)
			looks.Add(-1)
			p.kept[i] = 0
		}
	}
}
