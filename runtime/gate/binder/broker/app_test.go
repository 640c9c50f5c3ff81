package broker_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/servicemanager"
)

// app is a process that calls the service, with a uid of its own. It does what it is told by lines.
type app struct {
	t     testing.TB
	pid   int
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

const roleVariable = "CORSA_BROKER_TEST_ROLE"

func startApp(t testing.TB, device string, uid uint32) *app {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=app "+device)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: unix.SIGKILL}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &app{t: t, pid: cmd.Process.Pid, cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
	t.Cleanup(a.kill)
	return a
}

func (a *app) kill() {
	_ = a.cmd.Process.Kill() // ended already
	_ = a.cmd.Wait()
}

// ask tells the app what to do and returns what came of it: a result, or "error: …".
func (a *app) ask(words ...any) string {
	a.t.Helper()
	return a.begin(words...)()
}

// begin is ask whose answer is waited for later.
func (a *app) begin(words ...any) func() string {
	a.t.Helper()
	if _, err := fmt.Fprintln(a.stdin, words...); err != nil {
		a.t.Fatal(err)
	}
	return func() string {
		a.t.Helper()
		type line struct {
			text string
			err  error
		}
		got := make(chan line, 1)
		go func() {
			text, err := a.out.ReadString('\n')
			got <- line{strings.TrimSuffix(text, "\n"), err}
		}()
		select {
		case l := <-got:
			if l.err != nil {
				a.t.Fatalf("the app: %v", l.err)
			}
			return l.text
		case <-time.After(60 * time.Second):
			a.t.Fatalf("the app does not answer to %v", words)
			return ""
		}
	}
}

// want fails the test if the answer is another.
func (a *app) want(answer string, words ...any) {
	a.t.Helper()
	if got := a.ask(words...); got != answer {
		a.t.Errorf("%v gave %q, want %q", words, got, answer)
	}
}

// client is what an app does.
type client struct {
	conn   *binder.Conn
	ref    *binder.Ref
	deaths atomic.Int32
	own    *binder.Object
}

func runApp(device string) error {
	conn, err := binder.Open(device, binder.Options{Threads: 2})
	if err != nil {
		return err
	}
	c := &client{conn: conn}
	if c.own, err = conn.NewObject("test.ICallback", c); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		verb, argument, _ := strings.Cut(lines.Text(), " ")
		answer, err := c.do(verb, argument)
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(answer)
	}
	return errors.Join(conn.Close(), conn.Err())
}

// Transact is the app's own object: it asks the service, in the middle of its call.
func (c *client) Transact(_ *binder.Transaction, reply *binder.Parcel) error {
	var r binder.Reply
	defer r.Release()
	if err := c.ref.Transact(context.Background(), codeGet, c.conn.NewParcel(), &r); err != nil {
		return err
	}
	reply.WriteString16("called back: " + r.String16())
	return r.Err()
}

func (c *client) do(verb, argument string) (string, error) {
	ctx := context.Background()
	p := c.conn.NewParcel()
	var reply binder.Reply
	defer reply.Release()
	call := func(code uint32) error { return c.ref.Transact(ctx, code, p, &reply) }
	number, _ := strconv.ParseInt(argument, 10, 64)
	switch verb {
	case "find":
		return c.find(ctx, cmp.Or(argument, serviceName))
	case "deaths":
		return strconv.Itoa(int(c.deaths.Load())), nil
	case "ping":
		return "ok", c.ref.Ping(ctx)
	case "interface":
		return c.ref.Interface(ctx)
	case "set":
		p.WriteString16(argument)
		return "ok", call(codeSet)
	case "get":
		err := call(codeGet)
		return reply.String16(), err
	case "add":
		p.WriteInt64(number)
		return "ok", c.ref.Send(ctx, codeAdd, p)
	case "total":
		err := call(codeTotal)
		return strconv.FormatInt(reply.Int64(), 10), err
	case "crash":
		return "ok", call(codeCrash)
	case "sleep":
		p.WriteInt64(number)
		return "ok", call(codeSleep)
	case "identity":
		err := call(codeIdentity)
		return fmt.Sprintf("pid %d, called by %d", reply.Int32(), reply.Int32()), err
	case "once":
		p.WriteString16(argument)
		return "ok", call(codeOnce)
	case "lookup":
		return "ok", call(codeLookUp)
	case "bench":
		return c.bench(ctx, int(number))
	case "hammer":
		return c.hammer(ctx, int(number))
	}
	return c.doObjects(verb, p, &reply, call)
}

func (c *client) doObjects(verb string, p *binder.Parcel, reply *binder.Reply, call func(uint32) error) (string, error) {
	switch verb {
	case "callback":
		p.WriteBinder(c.own)
		err := call(codeCallback)
		return reply.String16(), err
	case "keep":
		p.WriteBinder(c.own)
		return "ok", call(codeKeep)
	case "forget":
		return "ok", call(codeForget)
	case "new":
		err := call(codeNew)
		return "ok", err
	case "self":
		if err := call(codeSelf); err != nil {
			return "", err
		}
		ref := reply.Ref()
		if ref == nil {
			return "", reply.Err()
		}
		defer ref.Release()
		return strconv.FormatBool(ref.Same(c.ref)), nil
	case "same":
		p.WriteBinder(c.ref)
		err := call(codeSame)
		return strconv.FormatBool(reply.Bool()), err
	case "write":
		return c.write(p, reply, call)
	}
	return "", errors.New("unknown verb")
}

func (c *client) find(ctx context.Context, name string) (string, error) {
	var err error
	if c.ref, err = servicemanager.NewClient(c.conn, servicemanager.AIDL3).Get(ctx, name); err != nil {
		return "", err
	}
	_, err = c.ref.NotifyDeath(func() { c.deaths.Add(1) })
	return "ok", err
}

// write passes a descriptor in each direction.
func (c *client) write(p *binder.Parcel, reply *binder.Reply, call func(uint32) error) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	p.WriteFD(int(w.Fd()))
	if err := call(codeWrite); err != nil {
		return "", errors.Join(err, w.Close())
	}
	f := os.NewFile(uintptr(reply.FD()), "comm")
	if err := errors.Join(w.Close(), reply.Err()); err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(r)
	comm, commErr := io.ReadAll(f)
	return string(text) + ", " + strings.TrimSpace(string(comm)), errors.Join(err, commErr)
}

// bench makes so many calls and returns the median of what one takes, in nanoseconds.
func (c *client) bench(ctx context.Context, n int) (string, error) {
	p := c.conn.NewParcel()
	var reply binder.Reply
	defer reply.Release()
	took := make([]int64, n)
	for i := range took {
		begun := time.Now()
		if err := c.ref.Transact(ctx, codeTotal, p, &reply); err != nil {
			return "", err
		}
		took[i] = int64(time.Since(begun))
	}
	slices.Sort(took)
	return strconv.FormatInt(took[n/2], 10), nil
}

// hammer echoes so many payloads of its own and fails at the first that is another's.
func (c *client) hammer(ctx context.Context, n int) (string, error) {
	payload := make([]byte, 4096)
	p := c.conn.NewParcel()
	var reply binder.Reply
	defer reply.Release()
	for i := range n {
		for j := range payload {
			payload[j] = byte(os.Getuid() + i + j)
		}
		p.Reset()
		p.WriteBytes(payload)
		if err := c.ref.Transact(ctx, codeEcho, p, &reply); err != nil {
			return "", fmt.Errorf("call %d: %w", i, err)
		}
		if got := reply.Bytes(); string(got) != string(payload) {
			return "", fmt.Errorf("call %d: %d bytes came back, not those that were sent", i, len(got))
		}
		p.Reset()
		if err := c.ref.Transact(ctx, codeGet, p, &reply); err != nil {
			return "", fmt.Errorf("call %d: %w", i, err)
		}
		if got := reply.String16(); got != strconv.Itoa(os.Getuid()) {
			return "", fmt.Errorf("call %d: the state is %q", i, got)
		}
	}
	return "ok", nil
}
