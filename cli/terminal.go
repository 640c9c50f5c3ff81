package cli

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// hostTerminal is the terminal that corsa itself runs in.
type hostTerminal struct {
	file  *os.File
	saved *unix.Termios // its mode before raw, nil if it was not changed
}

// openHostTerminal takes whichever standard stream is a terminal, or else the controlling terminal.
func openHostTerminal() (*hostTerminal, error) {
	for _, f := range []*os.File{os.Stderr, os.Stdout, os.Stdin} {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			return &hostTerminal{file: f}, nil
		}
	}
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("the process wants a terminal and corsa has none; use --detach with --console-socket, or set process.terminal to false: %w", err)
	}
	return &hostTerminal{file: f}, nil
}

// raw makes the terminal pass on every byte of input as it comes. It goes on to turn \n into \r\n on output: messages
// of corsa itself need it, and rawNewlines keeps the container's terminal from doing it too.
func (h *hostTerminal) raw() error {
	t, err := unix.IoctlGetTermios(int(h.file.Fd()), unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read mode of %s: %w", h.file.Name(), err)
	}
	saved := *t
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(h.file.Fd()), unix.TCSETS, t); err != nil {
		return fmt.Errorf("set mode of %s: %w", h.file.Name(), err)
	}
	h.saved = &saved
	return nil
}

// restore undoes raw.
func (h *hostTerminal) restore() error {
	if h.saved == nil {
		return nil
	}
	err := unix.IoctlSetTermios(int(h.file.Fd()), unix.TCSETS, h.saved)
	if errors.Is(err, unix.EIO) { // hung up: there is no mode any more
		err = nil
	}
	h.saved = nil
	return err
}

// resize gives the container's terminal the size of ours.
func (h *hostTerminal) resize(master *os.File) error {
	size, err := unix.IoctlGetWinsize(int(h.file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return err
	}
	return control(master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
}

// rawNewlines stops the container's terminal from turning \n into \r\n.
func rawNewlines(master *os.File) error {
	return control(master, func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		t.Oflag &^= unix.ONLCR
		return unix.IoctlSetTermios(fd, unix.TCSETS, t)
	})
}

// control calls fn with f's descriptor and leaves f non-blocking, which f.Fd does not.
func control(f *os.File, fn func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := conn.Control(func(fd uintptr) { ferr = fn(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
