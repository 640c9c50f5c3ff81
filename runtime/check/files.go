package check

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// File systems whose files mean something else to every process.
const (
	procMagic  = 0x9fa0
	mqueue     = 0x19800202
	pidfsMagic = 0x50494446
	nsfsMagic  = 0x6e736673
)

func (in *inspection) checkFile(f *openFile) {
	f.Kind = KindFile
	path, deleted := strings.CutSuffix(f.Target, deletedSuffix)
	var fs unix.Statfs_t
	if err := unix.Statfs(fmt.Sprintf("%s/fd/%d", in.dir, f.FD.FD), &fs); err != nil {
		in.block(f.object(f.Target), "its file system cannot be told: "+err.Error(), "try again")
		return
	}
	switch {
	case fs.Type == pidfsMagic || strings.HasPrefix(path, "anon_inode:") || strings.HasPrefix(path, "pidfd:"):
		in.checkAnonymous(f)
	case fs.Type == nsfsMagic:
		f.Kind = KindNamespace // it has no state of its own
	case fs.Type == mqueue:
		f.Kind = "mqueue"
		in.block(f.object("message queue "+path), "a POSIX message queue and the messages in it are common to all instances",
			"let the service use a socket or a pipe")
	case fs.Type == procMagic && isNumbered(in.inside(path)):
		in.block(f.object(path), "it shows the process that it was opened for, also to instances that are other processes",
			"let the service open the file anew each time that it reads it")
	case strings.HasPrefix(path, "/memfd:"):
		f.Kind = "memfd"
		in.block(f.object(strings.TrimPrefix(path, "/")), "a memfd is common to all instances, and a restore would not undo writes to it",
			"run the service without memfd, or let it use private anonymous memory")
	case deleted && f.stat.Nlink == 0 && in.isPrivate(path):
		f.Private = true // its contents are copied
	case deleted && f.stat.Nlink == 0:
		in.block(f.object(f.Target), "the file was deleted; it has no name by which an instance could have its own",
			"let the service keep its temporary files under a name, or hold them in memory")
	default:
		f.Shared, f.Private = in.isShared(f.Target), in.isPrivate(f.Target)
		in.checkOpenFile(f)
	}
	in.checkLocks(f)
}

func (in *inspection) checkOpenFile(f *openFile) {
	switch {
	case f.Private:
	case !f.writable():
	case f.Shared:
		in.note(f.object(f.Target), "declared shared: all instances write to the same file, and no restore undoes that")
	case f.FD.FD <= 2:
		in.block(f.object(f.Target), "it is a file that the program prints to, and a restore would not undo that",
			fmt.Sprintf("if all instances may share it, declare it: --shared %s; or let it be a pipe: `… 2>&1 | cat`", in.inside(f.Target)))
	default:
		in.block(f.object(f.Target), "it is open for writing: instances would write into the same file, and a restore would not undo it",
			in.shareHint(f.Target, "or let the service not keep it open"))
	}
}

// isNumbered tells whether a path of procfs belongs to one process. Where procfs is mounted does not matter.
func isNumbered(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part != "" && strings.Trim(part, "0123456789") == "" {
			return true
		}
	}
	return false
}

func (in *inspection) checkLocks(f *openFile) {
	if f.Private {
		return // an instance takes them on its own file
	}
	for _, lock := range f.info.locks {
		kind := "file lock"
		// "1: POSIX  ADVISORY  WRITE 1234 fe:00:77 0 EOF"
		if fields := strings.Fields(lock); len(fields) > 3 {
			kind = fields[1] + " " + strings.ToLower(fields[3]) + " lock"
		}
		in.block(f.object(f.Target), "a "+kind+" is held on it, and only one process can hold it",
			"run the service without a lock file, or let it take locks only for the time of a request")
	}
}

// Device numbers, of Linux's Documentation/admin-guide/devices.txt.
const (
	majorMem     = 1
	majorTTY     = 4
	majorTTYAux  = 5
	majorPTS     = 136 // to 143
	majorPTSLast = 143
	majorDRM     = 226
	minorNull    = 3
	minorZero    = 5
	minorFull    = 7
	minorRandom  = 8
	minorUrandom = 9
	minorTTY     = 0 // /dev/tty
	minorConsole = 1
	minorPTMX    = 2
)

func (in *inspection) checkDevice(f *openFile) {
	f.Kind = KindDevice
	major, minor := unix.Major(f.stat.Rdev), unix.Minor(f.stat.Rdev)
	switch {
	case in.isBroker(f):
		f.Kind = KindBinder
	case isBinder(fmt.Sprintf("%s/fd/%d", in.dir, f.FD.FD)):
		in.checkBinder(f)
	case major == majorMem && (minor == minorNull || minor == minorZero || minor == minorFull || minor == minorRandom || minor == minorUrandom):
	case major == majorTTYAux && minor == minorPTMX:
		in.block(f.object(f.Target), "it is the master of a terminal, which only one instance could serve", "let the service not open terminals")
	case major == majorTTY || major == majorTTYAux && (minor == minorTTY || minor == minorConsole) || major >= majorPTS && major <= majorPTSLast:
		f.Kind = KindTerminal
		in.note(f.object(f.Target), "all instances share the terminal")
	case major == majorDRM:
		in.block(f.object(f.Target), "the state of a GPU is outside of the process (DRM)", "run the service with software rendering")
	case f.Target == "/dev/kvm":
		in.block(f.object(f.Target), "a virtual machine's state is outside of the process (KVM)", "run the service without KVM")
	default:
		in.block(f.object(fmt.Sprintf("%s, device %d:%d", f.Target, major, minor)), "the state of a device is outside of the process",
			"run the service without the device, or put it behind another service")
	}
}

func (in *inspection) checkPipe(f *openFile) {
	if !strings.HasPrefix(f.Target, "pipe:[") {
		f.Kind = KindFIFO
		in.block(f.object(f.Target), "a named pipe carries bytes from outside, which would reach whichever instance reads first",
			"let the service listen on a socket")
		return
	}
	f.Kind = KindPipe
	reads, writes := false, false
	for _, other := range in.table {
		if other.stat.Dev == f.stat.Dev && other.Inode == f.Inode {
			mode := other.info.flags & unix.O_ACCMODE
			reads = reads || mode != unix.O_WRONLY
			writes = writes || mode != unix.O_RDONLY
		}
	}
	f.Internal = reads && writes
	switch {
	case f.Internal:
	case f.writable() || f.FD.FD == 0:
		in.note(f.object(f.Target), "the other end is outside of the process: all instances share this one")
	default:
		in.block(f.object(f.Target), "what is written to this pipe outside would reach whichever instance reads first",
			fmt.Sprintf("start the service without descriptor %d (in a shell: %d<&-)", f.FD.FD, f.FD.FD))
	}
}
