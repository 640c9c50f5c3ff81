package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mapping is one line of /proc/PID/maps or the head of one entry of smaps.
type mapping struct {
	span   string // "7f00-7f01", hexadecimal
	perms  string // "rw-s"
	device string // "fe:00"
	inode  string
	path   string
}

// parseMapping reports false for a line that is not the head of a mapping.
func parseMapping(line string) (mapping, bool) {
	var m mapping
	rest := strings.TrimSuffix(line, "\n")
	offset := ""
	for _, field := range []*string{&m.span, &m.perms, &offset, &m.device, &m.inode} {
		*field, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
	}
	m.path = strings.TrimLeft(rest, " ")
	return m, len(m.perms) == 4 && strings.Contains(m.span, "-") && m.inode != ""
}

func (m *mapping) shared() bool { return m.perms[3] == 's' }

// object names the mapping in a blocker.
func (m *mapping) object() string {
	if m.path == "" {
		return "mapping " + m.span
	}
	return fmt.Sprintf("mapping %s (%s)", m.span, m.path)
}

func (in *inspection) checkMappings() error {
	data, err := os.ReadFile(in.dir + "/maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		m, ok := parseMapping(line)
		if !ok {
			return fmt.Errorf("%s/maps: cannot read the line %q", in.dir, line)
		}
		in.checkMapping(&m)
	}
	return nil
}

const deletedSuffix = " (deleted)"

func (in *inspection) checkMapping(m *mapping) {
	path := strings.TrimSuffix(m.path, deletedSuffix)
	switch {
	case in.mapsBroker(m): // an instance gets one of its own
	case path == "" || path[0] == '[': // anonymous, [heap], [vdso], [anon:name]
	case path == "/[aio]":
		in.refuse(m, "the kernel completes asynchronous I/O (libaio) into it and a copy has no such context",
			"run the service with another I/O method (often `aio=threads` or `off`)")
	case path == "/anon_hugepage":
		in.refuse(m, hugetlbReason, hugetlbWayOut)
	case strings.HasPrefix(path, "/SYSV"):
		in.refuse(m, "it is System V shared memory, which a copy would share with the original",
			"configure the service to use anonymous or POSIX memory instead (PostgreSQL: shared_memory_type=mmap)")
	case strings.HasPrefix(path, "anon_inode:"):
		kind := anonKind(path)
		why := refusalOf(kind)
		in.refuse(&mapping{span: m.span, path: string(kind)}, why.reason, why.wayOut)
	case strings.HasPrefix(path, "socket:"):
		in.refuse(m, "it is a ring shared with the kernel by a socket", "run the service without packet rings")
	case path == "/dev/zero": // shared anonymous memory, or private zeroes
		if m.shared() && in.inPlace() {
			in.refuse(m, "it is shared anonymous memory, which a copy made in the kernel would share with the original",
				"use the fork engine, which copies it, or let the service map it privately")
		}
	case path[0] == '/' && in.binderMapping(m):
		if !in.binderGated() {
			in.refuse(m, binderReason, binderWayOut)
		}
	case strings.HasPrefix(path, "/dev/") && in.isDevice(m):
		in.refuse(m, deviceReason,
			"run the service without the device (for a GPU: software rendering)")
	case !m.shared():
		if path != m.path && !strings.HasPrefix(path, "/memfd:") {
			in.note(m.object(), "its file was replaced or removed; the mapping stays as it is in every instance")
		}
	case strings.HasPrefix(path, "/memfd:"):
		in.refuse(m, "a shared memfd would be common to all instances", "map it MAP_PRIVATE, or use MAP_SHARED|MAP_ANONYMOUS memory")
	default:
		in.checkSharedFile(m, path)
	}
}

const (
	hugetlbReason = "huge pages of hugetlbfs are reserved for one process and may not be there for a copy"
	deviceReason  = "it is memory of a device, whose state is outside of the process"
	hugetlbWayOut = "run the service with transparent huge pages instead of hugetlbfs"
)

func (in *inspection) checkSharedFile(m *mapping, path string) {
	switch {
	case in.isShared(path) && path == m.path:
		in.note(m.object(), "declared shared: all instances see each other's writes, and no restore undoes them")
	case in.isPrivate(path): // an instance maps a file of its own
	case in.openedReadOnly(m): // like glibc's gconv cache: the process could not write through it
	default:
		in.refuse(m, "it is a shared file mapping: instances would see each other's writes, and a restore would not undo them",
			in.shareHint(path, "or let the service map it privately"))
	}
}

// openedReadOnly tells whether the file behind a mapping was opened without write permission, so that even mprotect
// cannot make the mapping writable. The mode bits of the map_files link say so.
func (in *inspection) openedReadOnly(m *mapping) bool {
	if m.perms[1] == 'w' {
		return false
	}
	info, err := os.Lstat(in.dir + "/map_files/" + m.span)
	return err == nil && info.Mode().Perm()&0o200 == 0
}

// isDevice tells whether a path below /dev really is a device: POSIX shared memory is below /dev/shm.
func (in *inspection) isDevice(m *mapping) bool {
	var st unix.Stat_t
	err := unix.Stat(in.dir+"/map_files/"+m.span, &st)
	if err != nil {
		return !strings.HasPrefix(m.path, "/dev/shm/")
	}
	return st.Mode&unix.S_IFMT == unix.S_IFCHR || st.Mode&unix.S_IFMT == unix.S_IFBLK
}

// checkVMFlags reads what only smaps shows. It costs a walk of the page tables, so it is done when asked, or when
// status already says that there is something to name.
func (in *inspection) checkVMFlags() error {
	if !in.opts.Deep && in.status.locked == 0 && in.status.hugetlb == 0 {
		return nil
	}
	data, err := os.ReadFile(in.dir + "/smaps")
	if errors.Is(err, fs.ErrPermission) && !in.opts.Deep {
		in.block("memory", fmt.Sprintf("%d bytes are locked or in hugetlbfs, and smaps cannot be read to tell where", in.status.locked+in.status.hugetlb),
			"run corsa as root")
		return nil
	} else if err != nil {
		return err
	}
	var current mapping
	for line := range strings.Lines(string(data)) {
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok {
			in.checkFlags(&current, flags)
		} else if m, ok := parseMapping(line); ok {
			current = m
		}
	}
	return nil
}

func (in *inspection) checkFlags(m *mapping, flags string) {
	// [vvar], [vdso] and [vsyscall] are the kernel's and have flags of devices.
	if strings.HasPrefix(m.path, "[v") || in.mapsBroker(m) {
		return
	}
	for flag := range strings.FieldsSeq(flags) {
		switch flag {
		case "dc":
			continue // the kernel module copies it all the same, and the fork engine asks the kernel to
		case "lo":
			if !in.inPlace() {
				in.note(m.object(), "it is locked in memory (mlock); an instance's pages are locked when they come in")
				continue
			}
			in.refuse(m, "it is locked in memory (mlock), which a copy is not",
				"use the fork engine, or start the service without mlock (memcached: without -k)")
		case "ht":
			in.refuse(m, hugetlbReason, hugetlbWayOut)
		case "um", "uw", "ui":
			in.refuse(m, "its page faults are handled by a userfaultfd, which is not inherited", "run the service without userfaultfd")
		case "io", "pf":
			in.refuse(m, deviceReason, "run the service without the device")
		case "wf":
			if in.inPlace() {
				in.note(m.object(), "MADV_WIPEONFORK: it is kept, so a random generator in it goes on identically in every instance")
				continue
			}
			in.note(m.object(), "MADV_WIPEONFORK: it begins as zeroes in every instance, so that random generators in it reseed")
		}
	}
}

// refuse blocks a mapping once.
func (in *inspection) refuse(m *mapping, reason, wayOut string) {
	if in.refused[m.span] {
		return
	}
	in.refused[m.span] = true
	in.block(m.object(), reason, wayOut)
}
