package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// strayMainThread makes the test binary list the mounts under the directory that it names, from a process whose main
// thread is in another mount namespace, where there are none.
const strayMainThread = "CORSA_TEST_STRAY_MAIN_THREAD"

func init() {
	if os.Getenv(strayMainThread) != "" {
		runtime.LockOSThread() // TestMain then runs on the main thread
	}
}

func listMountsBesideStrayMainThread(dir string) {
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
	}
	if err == nil {
		err = detachAll(filepath.Join(dir, "mounted"))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		mounts, err := mountsUnder(dir)
		fmt.Println(mounts, err)
	}()
	<-done
	os.Exit(0)
}

// It happens: libcontainer sends the thread that it happens to run on to the container's mount namespace for good.
func TestMountsAreFoundWhenTheMainThreadIsInAnotherNamespace(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mounted := filepath.Join(dir, "mounted")
	source, check := precious(t)
	bindMount(t, source, mounted)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), strayMainThread+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if want := fmt.Sprintf("[%s] <nil>", mounted); strings.TrimSpace(string(out)) != want {
		t.Errorf("got %s, want %s", out, want)
	}
	check()
}

func TestUnescapeOctal(t *testing.T) {
	for in, want := range map[string]string{
		`/plain`:             `/plain`,
		`/a\040b\011c\012d`:  "/a b\tc\nd",
		`/back\134slash\134`: `/back\slash\`,
		`/not\08octal\1`:     `/not\08octal\1`,
		`/too\777large\04`:   `/too\777large\04`,
	} {
		if got := unescapeOctal(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
