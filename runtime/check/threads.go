package check

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// checkThreads looks for state that a thread has for itself and that a copy made from the leader would not have.
func (in *inspection) checkThreads() error {
	if !in.inPlace() { // it injects nothing that a filter would judge
		in.checkSeccomp()
	}
	entries, err := os.ReadDir(in.dir + "/task")
	if err != nil {
		return err
	}
	// Entering a pid namespace and choosing ids there is done with the credentials of the service.
	if !in.inPlace() && !in.status.can(capSysAdmin) {
		in.note("process and thread ids", "the service lacks CAP_SYS_ADMIN, so instances may have process and thread ids "+
			"of their own; programs that remember theirs (Go, Java) would notice")
	}
	blocked := in.status.blocked // by every thread: another one would take the signal
	for _, entry := range entries {
		tid, err := strconv.Atoi(entry.Name())
		if err != nil {
			return fmt.Errorf("%s/task: %w", in.dir, err)
		}
		st, err := readStatus(fmt.Sprintf("%s/task/%d/status", in.dir, tid))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread has ended
		} else if err != nil {
			return err
		}
		blocked &= st.blocked
		in.checkPending(tid, &st)
		if tid != in.pid {
			in.checkThread(tid, &st)
		}
	}
	if pending := in.status.processPending & blocked; pending != 0 && in.inPlace() {
		in.block(fmt.Sprintf("signal %d", firstSignal(pending)), "it is blocked by all threads and pending for the process, and would be lost",
			"use the fork engine, or let the service take it, or send it again after adoption")
	}
	return nil
}

func (in *inspection) checkSeccomp() {
	switch in.status.seccomp {
	case 1:
		in.block(fmt.Sprintf("process %d (%s)", in.pid, in.status.name), "it is in seccomp strict mode, which cannot be suspended",
			"start the service without it; a filter (SECCOMP_MODE_FILTER) is fine")
	case 2:
		me, err := self()
		if err == nil && me.can(capSysAdmin) && me.seccomp == 0 {
			return
		}
		in.block(fmt.Sprintf("seccomp filter of process %d (%s)", in.pid, in.status.name),
			"it would judge the engine's own calls, and suspending it needs CAP_SYS_ADMIN and a caller without a filter",
			"run corsa as root outside of a container, or start the service without the filter")
	}
}

func (in *inspection) checkPending(tid int, st *status) {
	if pending := st.pending & st.blocked; pending != 0 && in.inPlace() {
		in.block(fmt.Sprintf("thread %d (signal %d)", tid, firstSignal(pending)),
			"the signal is blocked and pending for the thread, and would be lost", "use the fork engine, or let the thread take it")
	}
}

func (in *inspection) checkThread(tid int, st *status) {
	object := fmt.Sprintf("thread %d (%s)", tid, st.name)
	leader := &in.status
	switch {
	case st.uids != leader.uids || st.gids != leader.gids || st.capEff != leader.capEff:
		in.block(object, "it has user ids or capabilities of its own, unlike the first thread",
			"let the service change them for the whole process (setuid of libc, not the bare system call)")
	case st.seccomp != leader.seccomp || st.seccompFilters != leader.seccompFilters:
		in.block(object, "it has a seccomp filter of its own, unlike the first thread",
			"install filters with SECCOMP_FILTER_FLAG_TSYNC or before threads are made")
	case st.tracer != leader.tracer:
		in.block(fmt.Sprintf("tracer %d (%s)", st.tracer, commOf(st.tracer)),
			fmt.Sprintf("another program traces thread %d and only one can", tid), "detach the debugger or tracer")
	}
	for _, kind := range []struct {
		which int
		what  string
	}{{kcmpFiles, "table of open files"}, {kcmpFS, "working directory and umask"}} {
		if same, err := kcmp(in.pid, tid, kind.which, 0, 0); err == nil && !same {
			in.block(object, "it does not share its "+kind.what+" with the first thread",
				"let the service not unshare them per thread (unshare, setns, clone without CLONE_FILES or CLONE_FS)")
		}
	}
	for _, ns := range []string{"mnt", "net", "user", "ipc", "uts"} {
		a, errA := os.Readlink(in.dir + "/ns/" + ns)
		b, errB := os.Readlink(fmt.Sprintf("%s/task/%d/ns/%s", in.dir, tid, ns))
		if errA == nil && errB == nil && a != b {
			in.block(object, "it is in another "+ns+" namespace than the first thread", "let the service keep all threads in one namespace")
		}
	}
}

func firstSignal(set uint64) int { return bits.TrailingZeros64(set) + 1 }
