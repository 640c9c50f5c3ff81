package check

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine/fdplan"
)

// refusal is why a kind cannot be virtualised, and what to do about it.
type refusal struct{ reason, wayOut string }

// refusals are the anonymous inodes that are known and cannot be carried.
var refusals = map[Kind]refusal{
	"io_uring": {
		"its rings and requests in flight belong to one process and cannot be copied",
		"run the service without io_uring (most have a switch), or set the sysctl kernel.io_uring_disabled=2 so that it uses epoll",
	},
	"userfaultfd": {"it handles page faults of one address space and is not inherited", "run the service without userfaultfd"},
	"perf_event":  {"a performance counter counts one process", "stop profiling the service"},
	"inotify": {
		"watches and queued events cannot be read from outside",
		"switch off the service's file watching, and reload it by a restart",
	},
	"fanotify": {"marks and queued events cannot be read from outside", "switch off the service's file watching"},
	"pidfd":    {"it names a process outside, which is the same for all instances", "let the service not hold pidfds while it waits for requests"},
	"seccomp notify": {
		"requests of the supervised process would reach whichever instance reads first", "run the supervisor apart from the service",
	},
	"bpf":      {"a BPF object of the kernel is common to all instances", "run the service without BPF"},
	"kvm":      {"a virtual machine's state is outside of the process (KVM)", "run the service without KVM"},
	"dmabuf":   {"it is a buffer of a device", "run the service with software rendering"},
	"aio":      {"an asynchronous I/O context belongs to one process", "run the service with another I/O method"},
	"io_mount": {"a mount under construction belongs to one process", "wait until the service has mounted it"},
}

// anonKind is the kind in "anon_inode:[eventpoll]" and "anon_inode:bpf-map".
func anonKind(target string) Kind {
	name := strings.TrimPrefix(target, "anon_inode:")
	name = strings.Trim(name, "[]")
	switch {
	case name == "eventpoll":
		return KindEpoll
	case strings.HasPrefix(name, "bpf") || name == "btf":
		return "bpf"
	case strings.HasPrefix(name, "kvm"):
		return "kvm"
	case strings.HasPrefix(name, "pidfd"):
		return "pidfd"
	case strings.HasPrefix(name, "/dmabuf"):
		return "dmabuf"
	}
	return Kind(name)
}

// refusalOf never comes back empty: what is not known cannot be virtualised either.
func refusalOf(kind Kind) refusal {
	if why, ok := refusals[kind]; ok {
		return why
	}
	return refusal{"this kind of kernel object is not known to corsa", "run the service without it"}
}

func (in *inspection) checkAnonymous(f *openFile) {
	f.Kind = anonKind(f.Target)
	switch f.Kind {
	case KindEventfd, KindTimerfd, KindSignalfd:
	case KindInotify:
		in.checkInotify(f)
	case KindEpoll:
		in.checkEpoll(f)
	default:
		name := string(f.Kind)
		if detail := strings.Trim(strings.TrimPrefix(f.Target, "anon_inode:"), "[]"); f.Kind == "bpf" || f.Kind == "kvm" {
			name = detail
		}
		if f.info.pid > 0 {
			name = fmt.Sprintf("pidfd of process %d", f.info.pid)
		}
		why := refusalOf(f.Kind)
		in.block(f.object(name), why.reason, why.wayOut)
	}
}

// checkInotify asks what would make the watches anew.
func (in *inspection) checkInotify(f *openFile) {
	if in.inPlace() {
		why := refusalOf(f.Kind)
		in.block(f.object(string(f.Kind)), why.reason, why.wayOut)
		return
	}
	reason, wayOut, err := in.inotifyProblem(f)
	if err != nil {
		reason, wayOut = "its watches cannot be read: "+err.Error(), "run corsa as root on Linux 5.6 or later"
	}
	if reason != "" {
		in.block(f.object(string(f.Kind)), reason, wayOut)
		return
	}
	in.note(f.object(string(f.Kind)), "an instance is told what happens to the watched files from its beginning on, not what had happened since its checkpoint")
}

func (in *inspection) inotifyProblem(f *openFile) (reason, wayOut string, err error) {
	info, err := os.ReadFile(fmt.Sprintf("%s/fdinfo/%d", in.dir, f.FD.FD))
	if err != nil {
		return "", "", err
	}
	dup, err := unix.PidfdGetfd(in.pidfd, f.FD.FD, 0)
	if err != nil {
		return "", "", err
	}
	defer unix.Close(dup)
	return fdplan.NotifyProblem(in.pid, dup, info)
}

// checkEpoll looks for entries whose descriptor was closed while a duplicate kept the file open: the set still
// reports it, but no number leads to the file any more.
func (in *inspection) checkEpoll(f *openFile) {
	seen := map[int]uint32{}
	for _, target := range f.info.targets {
		slot := epollSlot{efd: uint32(f.FD.FD), tfd: uint32(target.fd), nth: seen[target.fd]}
		seen[target.fd]++
		same, err := kcmpEpoll(in.pid, target.fd, &slot)
		if err != nil {
			same = in.holds(target)
		}
		if !same && (in.inPlace() || !in.elsewhere(&slot)) {
			in.block(f.object(fmt.Sprintf("epoll entry for fd %d", target.fd)),
				"the watched file is not open under that number any more, so it cannot be watched anew",
				"let the service remove descriptors from the set before it closes them")
		}
	}
}

// elsewhere tells whether some descriptor still has the file of the entry.
func (in *inspection) elsewhere(slot *epollSlot) bool {
	for _, other := range in.table {
		if same, err := kcmpEpoll(in.pid, other.FD.FD, slot); err == nil && same {
			return true
		}
	}
	return false
}

// holds is the comparison for kernels without kcmp: by inode.
func (in *inspection) holds(target epollTarget) bool {
	for _, other := range in.table {
		if other.FD.FD == target.fd {
			return other.Inode == target.inode
		}
	}
	return false
}
