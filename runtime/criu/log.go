package criu

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"regexp"

	"golang.org/x/sys/unix"
)

// ErrCRIU says that CRIU could not dump or restore; the text says why as far as CRIU's log tells.
var ErrCRIU = errors.New("CRIU failed")

// errorLine is a line of CRIU's log, "(00.012345) 12: Error (criu/tty.c:42): text": what follows is the reason.
const errorLine = `Error \([^)]*\): (.*)`

// consequence are lines that follow from another one, or that mean nothing.
const consequence = `FAILED|failed with -1$|cgroupd: recv req|RLIMIT_NOFILE|trimmed|^Unable to open fd=|^mnt: Can't remove|^Can't kill`

// reasons are what CRIU says, and in place of it what is in the way, with $1 and so on from the line, and the way out. The expressions
// are compiled when something has failed: whatever else corsa does must not wait for that.
var reasons = []struct {
	line string
	what string
	way  string
	is   error
}{
	{`(.*)No space left on device`, "the disk is full: $1", "make room, or use another --image-path", unix.ENOSPC},
	{`(.*)Disk quota exceeded`, "the disk quota is used up: $1", "make room, or use another --image-path", unix.EDQUOT},
	{`Connected TCP socket`, "a process has an established TCP connection", "use --tcp-established", nil},
	{`In-flight connection`, "a TCP connection is being made", "use --tcp-skip-in-flight, or try again", nil},
	{
		`(?i)external socket is used|unix: .*ext-unix-sk`,
		"a process is connected to a unix socket outside the container", "use --ext-unix-sk, or end that connection", nil,
	},
	{
		`Dangling connection|Can't dump half of stream unix`,
		"a process is connected to a unix socket outside the container", "end that connection: --ext-unix-sk carries datagrams only", nil,
	},
	{`file locks are hold`, "a process holds a file lock", "use --file-locks", nil},
	{`dangling tty|shell terminal|--shell-job`, "a process has a terminal of the caller's", "use --shell-job", nil},
	{
		`Can't lookup mount=\d+ for fd=(\d+) path=(.*)`, "a process has as descriptor $1 the file $2 of the host, which is on none of its mounts",
		"mount it into the container, or have the process close it", nil,
	},
	{`Can't create link remap for (\S+)\. Use`, "the file $1 was deleted and is open, and has another name", "use --link-remap", nil},
	{
		`Can't dump ghost file (\S+) of (\d+) size`, "the file $1 was deleted, is open, and has $2 bytes",
		fmt.Sprintf("at most %d are put into an image; have the process close it", ghostLimit), nil,
	},
	{`Unseizable non-zombie (\d+) found, state t`, "process $1 is being traced", "end the debugger first", nil},
	{`Unseizable non-zombie (\d+) found, state (\w)`, "process $1, in state $2, cannot be stopped", "try again", nil},
	{`send_fds failed \(-22\)`, "a process has a descriptor that cannot be passed on, such as one of io_uring", "have it close that", nil},
	{
		`Can't dump file (\d+) of that type \[\w+\] \(?(.*?)\)?$`, "a process has as descriptor $1 something that CRIU cannot dump: $2",
		"have it close that", nil,
	},
	{`Can't dump nested (\w+) namespace for (\d+)`, "process $2 has a $1 namespace of its own within the container's", "end it first", nil},
	{`Can't get 1:(16|34) opt`, "this CRIU cannot dump TCP sockets on this kernel", "CRIU 4.2 can", nil},
	{`mnt: No mapping for \S*:?(\S+) mountpoint`, "the bundle has no mount in place of $1, which the image has", "give the bundle the mounts that it had", nil},
	{`FS mnt (\S+) dev \S+ root (\S+) unsupported`, "the file system mounted at $1 cannot be dumped", "unmount it, or have the bundle mount it", nil},
	{
		`mnt: Mount \d+:(\S+) .*unreachable|doesn't have a proper root mount`, "the mount $1 is shared with the host in a way that cannot be made again",
		"mount it private", nil,
	},
	{`File (\S+) has bad (size|mode|build-?ID)(.*)`, "$1 is not as it was at the checkpoint: bad $2$3", "give the container the content that it had", ErrDrift},
	{`Can't open file (\S+) on restore`, "$1 was open at the checkpoint and is missing", "give the container the content that it had", ErrDrift},
	{`^((?:cpu|x86|fpu|cpuinfo): .*)`, "the image needs another CPU: $1", "restore it on a machine like the one it is from", ErrForeignImage},
	{`Can't fork for (\d+): File exists`, "the pid $1 is in use", "let the bundle make a pid namespace", nil},
	{
		`Can't (?:bind|connect) inet socket(?: back)?: (.*)`, "a TCP connection cannot be made again: $1",
		"the container needs the addresses that it had; an image with an empty network namespace has none", nil,
	},
	{
		`No parent for snapshot pagemap|parent.*(?:not found|No such file)`, "the parent image is missing",
		"keep it where it was, as seen from this one", ErrNoImage,
	},
	{`Unable to connect to page server|Can't connect to server`, "there is no page server at that address", "start `criu page-server` there", nil},
	{`(?:Can't open|Unable to open|Can't read|Unexpected EOF|Magic|magic|Empty image).*?(\S+\.img)(.*)`, "the image cannot be read: $1$2", "copy it again", ErrNoImage},
	{`(pstree|inventory|.*unexpected EOF.*|.*Image is trimmed.*|.*Record trimmed.*)`, "the image is damaged: $1", "copy it again", ErrNoImage},
}

// explain makes an error out of what CRIU answered and wrote to its log.
func explain(err error, log string) error {
	var f *failure
	if !errors.As(err, &f) {
		return fmt.Errorf("%w; CRIU's log is %s", err, log)
	}
	expressions := make([]*regexp.Regexp, len(reasons))
	for i, r := range reasons {
		expressions[i] = regexp.MustCompile(r.line)
	}
	lines, lerr := errorLines(log)
	if lerr != nil {
		return fmt.Errorf("%w: %w; its log cannot be read: %w", ErrCRIU, err, lerr)
	}
	last, follows := "", regexp.MustCompile(consequence)
	for _, l := range lines {
		for i, r := range reasons {
			expression := expressions[i]
			if m := expression.FindStringSubmatchIndex(l); m != nil {
				what := string(expression.ExpandString(nil, r.what, l, m))
				if r.is != nil {
					return fmt.Errorf("%w: %s: %w; %s (CRIU's log is %s)", ErrCRIU, what, r.is, r.way, log)
				}
				return fmt.Errorf("%w: %s; %s (CRIU's log is %s)", ErrCRIU, what, r.way, log)
			}
		}
		if !follows.MatchString(l) {
			last = l
		}
	}
	if last == "" {
		return fmt.Errorf("%w: %w; its log, %s, does not say why", ErrCRIU, err, log)
	}
	return fmt.Errorf("%w: %s; its log is %s", ErrCRIU, last, log)
}

// errorLines are the texts of errors in CRIU's log.
func errorLines(log string) ([]string, error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	pattern := regexp.MustCompile(errorLine)
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if m := pattern.FindStringSubmatch(s.Text()); m != nil {
			lines = append(lines, m[1])
		}
	}
	return lines, s.Err()
}
