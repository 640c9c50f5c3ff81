package gbinder_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
)

// calls is how many TestGuestClipboardCrowd makes.
var calls = flag.Int("calls", 2000, "calls of the crowd, of all users together")

// memberVariable makes the test binary one of the crowd: "DEVICE CALLS".
const memberVariable = "CORSA_GBINDER_MEMBER"

const crowd = 16

func TestMain(m *testing.M) {
	path, n, ok := strings.Cut(os.Getenv(memberVariable), " ")
	if !ok {
		os.Exit(m.Run())
	}
	count, err := strconv.Atoi(n)
	if err == nil {
		err = member(path, count)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "uid %d: %v\n", os.Getuid(), err)
		os.Exit(1)
	}
}

// member copies and pastes texts of its own, and returns an error when it finds another's.
func member(path string, count int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Hour)
	defer cancel()
	conn, err := binder.Open(path, binder.Options{Threads: 1, Protocol: android11.variant.Protocol()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	service, err := servicemanager.NewClient(conn, android11.variant).Get(ctx, clipboard)
	if err != nil {
		return err
	}
	defer service.Release()
	var reply binder.Reply
	defer reply.Release()
	const setText, getText = 1, 2
	uid := os.Getuid()
	random := rand.New(rand.NewPCG(uint64(uid), 1))
	text := "(empty)"
	for i := range count {
		request := conn.NewParcel()
		request.WriteInterfaceToken("lineageos.waydroid.IClipboard")
		paste := i == 0 || random.IntN(2) == 0
		code := uint32(getText)
		if !paste {
			code = setText
			// 4 KiB in UTF-16, or less.
			text = fmt.Sprintf("%d:%d:%s", uid, i, strings.Repeat("x", random.IntN(2000)))
			request.WriteString16(text)
		}
		if err := service.Transact(ctx, code, request, &reply); err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
		if err := reply.Exception(); err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
		if !paste {
			continue
		}
		got := reply.String16()
		if err := reply.Err(); err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
		if got != text {
			return fmt.Errorf("call %d: it finds %.40q… of %d characters, and not %.40q… of %d", i, got, len(got), text, len(text))
		}
	}
	return nil
}

// runCrowd has all members make calls at once, and calls meanwhile, if it is not nil, when all have begun.
func runCrowd(t *testing.T, path string, meanwhile func()) {
	t.Helper()
	var members []*exec.Cmd
	for i := range crowd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", memberVariable, path, *calls/crowd))
		cmd.Stderr = os.Stderr
		uid := uint32(3001 + i)
		cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: unix.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		members = append(members, cmd)
	}
	if meanwhile != nil {
		meanwhile()
	}
	for i, cmd := range members {
		if err := cmd.Wait(); err != nil {
			t.Errorf("uid %d: %v", 3001+i, err)
		}
	}
}

// Sixteen users copy and paste at once, texts of up to 4 KiB, and nobody finds what another has copied.
func TestGuestClipboardCrowd(t *testing.T) {
	d := startDesktop(t)
	pasteText(t, 0) // its threads exist
	g := gate(t, d.service.Process.Pid)
	start := time.Now()
	runCrowd(t, d.path, nil)
	stats, err := g.session.BinderStats()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v for %d calls; %+v", time.Since(start), *calls, stats)
	if want := uint64(*calls / crowd * crowd); stats.Transactions < want {
		t.Errorf("only %d transactions of %d went through the gate", stats.Transactions, want)
	}
	if stats.InProgress != 0 || stats.Waiting != 0 {
		t.Errorf("%d transactions are in progress and %d wait, and nobody calls", stats.InProgress, stats.Waiting)
	}
}
