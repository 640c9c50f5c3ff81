package check

import (
	"fmt"
	"strings"
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
		if !same {
			in.block(f.object(fmt.Sprintf("epoll entry for fd %d", target.fd)),
				"the watched file is not open under that number any more, so it cannot be watched anew",
				"let the service remove descriptors from the set before it closes them")
		}
	}
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
