package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"
)

func TestReaperImageIsASmallStaticExecutable(t *testing.T) {
	img, err := reaperImage(5, "/bin/program")
	if err != nil {
		t.Fatal(err)
	}
	if len(img) > 2048 {
		t.Errorf("image is %d bytes; it should be less than 2 KiB", len(img))
	}
	f, err := elf.NewFile(bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0 {
			t.Errorf("segment %v is writable and executable", p.ProgHeader)
		}
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("image needs a dynamic linker: %v", p.Type)
		}
	}
}

// What the program sees must not depend on the reaper, except for pid and process group.
func TestReaperHandsOverACleanProcess(t *testing.T) {
	// Not SigQ: it counts the signals that are queued for all processes of the user.
	script := `grep -E '^(Sig[PBIC]|Shd|Thr|Cap|NoNew|Seccomp|Uid|Groups)' /proc/self/status; ls /proc/self/fd; echo "$@"; env | sort; pwd`
	var got [2]string
	for i, reaper := range []bool{false, true} {
		dir, spec := bundle(t, "sh", "-c", script, "arg zero", "one", "", "three 3")
		spec.Process.Cwd = "/tmp"
		stdout, stderr, code := output(t, Options{Bundle: dir, Spec: spec, Reaper: reaper, ID: fmt.Sprintf("%s-%d", testID(t), i)})
		if code != 0 || stderr != "" {
			t.Fatalf("reaper=%v: exit code %d, stderr %q", reaper, code, stderr)
		}
		got[i] = stdout
	}
	if got[0] != got[1] {
		t.Errorf("without reaper:\n%s\nwith reaper:\n%s", got[0], got[1])
	}
}

func TestReaperIsPID1AndInheritedFilesArePassedOn(t *testing.T) {
	dir, spec := bundle(t, "sh", "-c", `cat /proc/1/comm; echo $PPID; [ $$ != 1 ] && echo not 1; cat <&3; ls /proc/self/fd | wc -l; ls /proc/1/fd | wc -l`)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("from outside\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, _ := output(t, Options{Bundle: dir, Spec: spec, Reaper: true, ExtraFiles: []*os.File{r}})
	// The program has 0-3 and ls's own directory; the reaper has 0-3.
	if want := "corsa-reaper\n1\nnot 1\nfrom outside\n5\n4\n"; stdout != want {
		t.Errorf("got %q, want %q; stderr %q", stdout, want, stderr)
	}
}

func TestReaperExitsLikeTheProgram(t *testing.T) {
	for _, c := range []struct {
		script string
		code   int
	}{
		{"exit 0", 0},
		{"exit 42", 42},
		{"exit 255", 255},
		{"kill -KILL $$", 128 + 9},
		{"kill -SEGV $$", 128 + 11},
		{"sleep 1000 & exit 3", 3}, // what it leaves behind ends with it
	} {
		t.Run(c.script, func(t *testing.T) {
			dir, spec := bundle(t, "sh", "-c", c.script)
			if _, stderr, code := output(t, Options{Bundle: dir, Spec: spec, Reaper: true}); code != c.code {
				t.Errorf("exit code %d, want %d; stderr %q", code, c.code, stderr)
			}
		})
	}
}

func TestReaperForwardsSignals(t *testing.T) {
	// A shell cannot trap what was ignored when it began, as SIGHUP is under nohup. What is caught here is not ignored there.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGHUP)
	defer signal.Stop(caught)
	dir, spec := bundle(t, "sh", "-c", `
		for s in HUP INT QUIT USR1 USR2 ALRM CONT WINCH TSTP TTIN TTOU PIPE SEGV RTMIN; do trap "echo $s" $s; done
		trap 'echo TERM; exit 5' TERM
		echo ready
		while :; do sleep 0.01; done`)
	s := create(t, Options{Bundle: dir, Spec: spec, Reaper: true, Stdio: Stdio{Pipes: true}})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(s.Init().Pipes().Stdout)
	expect := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q, %v; want %q", lines.Text(), lines.Err(), want)
		}
	}
	guard(t, s)
	expect("ready")
	for _, name := range []string{"HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "CONT", "WINCH", "TSTP", "TTIN", "TTOU", "PIPE", "SEGV", "TERM"} {
		if err := s.Signal(unix.SignalNum("SIG" + name)); err != nil {
			t.Fatal(err)
		}
		expect(name)
	}
	if code, err := s.Init().Wait(); err != nil || code != 5 {
		t.Errorf("exit code %d, %v; want 5", code, err)
	}
}

// guard kills a container that does not come to an end, so that a test blocked in a read fails.
func guard(t *testing.T, s *Sandbox) {
	t.Helper()
	timer := time.AfterFunc(deadline, func() {
		t.Error("container is stuck")
		_ = s.Signal(unix.SIGKILL) // best effort: it fails if the test has just ended the container
	})
	t.Cleanup(func() { timer.Stop() })
}

func TestReaperReapsOrphans(t *testing.T) {
	// Each ( x & ) makes an orphan. The zombies that are left are counted until there are none.
	dir, spec := bundle(t, "sh", "-c", `
		i=0; while [ $i -lt 50 ]; do ( true & ); i=$((i+1)); done
		( sleep 1000 & )
		i=0; while [ $i -lt 2000 ]; do
			n=$(grep -l '^State:.*Z' /proc/[0-9]*/status 2>/dev/null | wc -l)
			[ $n = 0 ] && break
			sleep 0.01; i=$((i+1))
		done
		echo $n zombies; exit 4`)
	stdout, stderr, code := output(t, Options{Bundle: dir, Spec: spec, Reaper: true})
	if stdout != "0 zombies\n" || code != 4 {
		t.Errorf("got %q, %d; want no zombies, 4; stderr %q", stdout, code, stderr)
	}
}

func TestReaperReapsSiblingsOfTheProgram(t *testing.T) {
	dir, spec := bundle(t, "cloneparent")
	out, err := exec.Command("gcc", "-static", "-O1", "-o", filepath.Join(dir, "rootfs/bin/cloneparent"), "testdata/cloneparent.c").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	stdout, stderr, code := output(t, Options{Bundle: dir, Spec: spec, Reaper: true})
	if stdout != "all reaped\n" || code != 0 {
		t.Errorf("got %q, %d; stderr %q", stdout, code, stderr)
	}
}

func TestReaperSaysWhyItCannotExecute(t *testing.T) {
	for _, c := range []struct {
		name, content string
		code          int
	}{
		{"lost-interpreter", "#!/no/such/interpreter\n", 127},
		{"garbage", "\x7fELF is not enough", 126},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, spec := bundle(t, c.name)
			if err := os.WriteFile(filepath.Join(dir, "rootfs/bin", c.name), []byte(c.content), 0o755); err != nil {
				t.Fatal(err)
			}
			_, stderr, code := output(t, Options{Bundle: dir, Spec: spec, Reaper: true})
			if want := "corsa: cannot execute \"/bin/" + c.name + "\" in the container\n"; stderr != want || code != c.code {
				t.Errorf("got %q, %d; want %q, %d", stderr, code, want, c.code)
			}
		})
	}
}

func TestReaperNeedsProc(t *testing.T) {
	dir, spec := bundle(t, "true")
	spec.Mounts = spec.Mounts[1:] // the first is /proc
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil
	_, err := Create(context.Background(), Options{Root: t.TempDir(), ID: testID(t), Bundle: dir, Spec: spec, Reaper: true})
	if !errors.Is(err, ErrInvalidBundle) {
		t.Errorf("got %v, want ErrInvalidBundle", err)
	}
}

func TestServicePID(t *testing.T) {
	for _, reaper := range []bool{false, true} {
		t.Run(fmt.Sprintf("reaper=%v", reaper), func(t *testing.T) {
			dir, spec := bundle(t, "sleep", "1000")
			root := t.TempDir()
			s := create(t, Options{Root: root, Bundle: dir, Spec: spec, Reaper: reaper})
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), deadline)
			defer cancel()
			loaded, err := Load(root, s.ID())
			if err != nil {
				t.Fatal(err)
			}
			pid, err := loaded.ServicePID(ctx)
			if err != nil {
				t.Fatal(err)
			}
			initPID, err := s.InitPID()
			if err != nil {
				t.Fatal(err)
			}
			if (pid == initPID) == reaper {
				t.Errorf("service is %d, init is %d", pid, initPID)
			}
			if exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe"); err != nil || !strings.HasSuffix(exe, "/busybox") {
				t.Errorf("service executes %q, %v", exe, err)
			}
		})
	}
}

func TestServicePIDOfAProgramThatHasExited(t *testing.T) {
	dir, spec := bundle(t, "false")
	s := create(t, Options{Bundle: dir, Spec: spec, Reaper: true})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Init().Wait(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if _, err := s.ServicePID(ctx); !errors.Is(err, ErrExited) {
		t.Errorf("got %v, want ErrExited", err)
	}
}

func TestServicePIDObeysItsDeadline(t *testing.T) {
	for _, reaper := range []bool{false, true} {
		dir, spec := bundle(t, "true")
		s := create(t, Options{Bundle: dir, Spec: spec, Reaper: reaper, ID: fmt.Sprintf("%s-%v", testID(t), reaper)}) // never started
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		if _, err := s.ServicePID(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("reaper=%v: got %v, want the deadline", reaper, err)
		}
	}
}

// The terminal's interrupt character goes to the program alone; were it in the reaper's process group, it would get
// SIGINT twice.
func TestInterruptReachesTheProgramOnceUnderTheReaper(t *testing.T) {
	dir, spec := bundle(t, "sh", "-c", `trap 'n=$((n+1))' INT; echo rea''dy; while :; do read x && echo "count is $n"; done`)
	spec.Process.Terminal = true
	ours, theirs, err := utils.NewSockPair("console")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	s := create(t, Options{Bundle: dir, Spec: spec, Reaper: true, Stdio: Stdio{Console: theirs}})
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	master, err := utils.RecvFile(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	guard(t, s)
	lines := bufio.NewScanner(master)
	expect := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return
			}
			if strings.Contains(lines.Text(), "count is") {
				t.Errorf("got %q, want %q", lines.Text(), want)
			}
		}
		t.Fatalf("terminal ended before %q: %v", want, lines.Err())
	}
	expect("ready")
	for i := 1; i <= 20; i++ {
		for _, key := range []string{"\x03", "\n"} {
			if _, err := master.WriteString(key); err != nil {
				t.Fatal(err)
			}
		}
		expect(fmt.Sprintf("count is %d", i))
	}
}
