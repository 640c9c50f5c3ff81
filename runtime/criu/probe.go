package criu

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds one question to CRIU, which answers in hundredths of a second.
const patience = 10 * time.Second

// ErrLacks says that CRIU has proven that it cannot do something on this host. Any other error of a probe means that it could not
// tell.
var ErrLacks = errors.New("not possible here")

// lack is an ErrLacks with its reason.
type lack struct{ reason string }

func (l *lack) Error() string        { return l.reason }
func (l *lack) Is(target error) bool { return target == ErrLacks }

// Features of the kernel that CRIU can be asked about.
const (
	FeatureMemoryTracking = "mem_dirty_track" // --pre-dump, and dumps of what has changed
	FeatureLazyPages      = "uffd-noncoop"    // --lazy-pages
)

// Version is CRIU's, such as 4.2.1.
type Version struct{ Major, Minor, Patch int }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Before tells whether v is older than major.minor.
func (v Version) Before(major, minor int) bool {
	return v.Major < major || v.Major == major && v.Minor < minor
}

// parseVersion reads 4.2, 4.2.1, and the numbers in front of what a build of somebody's own adds: 4.2-rc1.
func parseVersion(s string) (Version, error) {
	var v Version
	fields := strings.SplitN(s, ".", 3)
	for i, n := range []*int{&v.Major, &v.Minor, &v.Patch}[:len(fields)] {
		digits := fields[i]
		if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 && i > 0 {
			digits = digits[:end]
		}
		var err error
		if *n, err = strconv.Atoi(digits); err != nil || len(fields) < 2 {
			return Version{}, fmt.Errorf("%q is not a version of CRIU", s)
		}
	}
	return v, nil
}

// Version asks the program.
func (p Program) Version(ctx context.Context) (Version, error) {
	out, err := p.ask(ctx, "--version")
	if err != nil {
		return Version{}, err
	}
	for line := range strings.Lines(out) {
		if value, ok := strings.CutPrefix(line, "Version:"); ok {
			v, err := parseVersion(strings.TrimSpace(value))
			if err != nil {
				return Version{}, fmt.Errorf("%s --version: %w", p.Path, err)
			}
			return v, nil
		}
	}
	return Version{}, fmt.Errorf("%s --version: there is no version in %q", p.Path, out)
}

// Check has CRIU look whether this kernel has what every dump and restore needs. ErrLacks. It needs root.
func (p Program) Check(ctx context.Context) error {
	_, err := p.ask(ctx, "check")
	return err
}

// Feature asks for one of the features. ErrLacks: the kernel does not have it. It needs root.
func (p Program) Feature(ctx context.Context, name string) error {
	_, err := p.ask(ctx, "check", "--feature", name)
	return err
}

// TCP tells whether CRIU can dump TCP sockets on this kernel, listening ones included. ErrLacks.
//
// Before 4.2 CRIU reads options of unix sockets from every socket; since 6.16 Linux refuses that.
func (p Program) TCP(ctx context.Context) error {
	v, err := p.Version(ctx)
	if err != nil || !v.Before(4, 2) {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a TCP socket: %w", err)
	}
	defer unix.Close(fd)
	_, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return &lack{fmt.Sprintf("version %s reads options of sockets that this kernel refuses to tell of TCP sockets", v)}
	}
	return err
}

// ask runs CRIU, without the configuration files of this host.
func (p Program) ask(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path, append([]string{"--no-default-config"}, args...)...)
	var messages strings.Builder
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err == nil {
		return string(out), nil
	}
	what := p.Path + " " + strings.Join(args, " ")
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	var exit *exec.ExitError
	reason := reasonIn(messages.String())
	if !errors.As(err, &exit) || !exit.Exited() || reason == "" {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	// It says so too when it may not look.
	if unix.Geteuid() != 0 {
		return "", fmt.Errorf("%s: %s; root is needed to ask", what, reason)
	}
	return "", &lack{reason}
}

// reasonIn is the text of CRIU's first error, or else of its first warning: "Error (criu/file.c:12): text".
func reasonIn(messages string) string {
	for _, level := range []string{"Error", "Warn"} {
		for line := range strings.Lines(messages) {
			if !strings.HasPrefix(line, level) {
				continue
			}
			if _, text, ok := strings.Cut(line, "): "); ok {
				return strings.TrimSpace(text)
			}
		}
	}
	return ""
}
