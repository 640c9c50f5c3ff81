package criu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The lines are of CRIU 4.2.1 and of its sources.
func TestExplain(t *testing.T) {
	for _, v := range []struct {
		log, want string
		is        error
	}{
		{"(00.051) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.", "use --tcp-established", nil},
		{
			"(00.05) Error (criu/files-reg.c:1790): Can't lookup mount=27 for fd=2 path=/tmp/x y\n(00.05) Error (criu/cr-dump.c:1545): Dump files (pid: 83) failed with -1",
			"as descriptor 2 the file /tmp/x y of the host", nil,
		},
		{"(00.1) Error (criu/page-xfer.c:1): page-xfer: Can't write 4096 bytes: No space left on device", "the disk is full", unix.ENOSPC},
		{"(00.1)   1: Error (criu/files-reg.c:2175): File bin/busybox has bad size 1 (expect 14)", "bin/busybox is not as it was", ErrDrift},
		{"pie: 1: Error (criu/pie/parasite.c:588): send_fds failed (-22)", "io_uring", nil},
		{
			"(00.03) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n" +
				"(00.05) Error (criu/thing.c:3): thing: it is broken\n" +
				"(00.06) Error (criu/cr-restore.c:2331): Restoring FAILED.\n" +
				"(00.07) Error (criu/cgroup.c:2055): cg: cgroupd: recv req error: No such file or directory",
			"thing: it is broken", nil,
		},
		{"(00.03) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted", "does not say why", syscall.EPERM},
	} {
		log := filepath.Join(t.TempDir(), "dump.log")
		if err := os.WriteFile(log, []byte(v.log+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := explain(&failure{errno: syscall.EPERM}, log)
		if !errors.Is(err, ErrCRIU) || !strings.Contains(err.Error(), v.want) || !strings.Contains(err.Error(), log) {
			t.Errorf("%q\nis explained as %q, which should contain %q and the log's path", v.log, err, v.want)
		}
		if v.is != nil && !errors.Is(err, v.is) {
			t.Errorf("%v is not %v", err, v.is)
		}
	}
}

func TestReasonsAreExpressions(t *testing.T) {
	for _, r := range reasons {
		if r.what == "" || r.way == "" {
			t.Errorf("%s has no text", r.line)
		}
	}
	if err := explain(&failure{}, filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a log: %v", err)
	}
	if err := explain(ErrTimeout, "x"); !errors.Is(err, ErrTimeout) {
		t.Errorf("an error of ours: %v", err)
	}
}
