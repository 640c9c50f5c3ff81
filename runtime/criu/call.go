// Package criu finds CRIU and has it dump and restore containers. It knows images and processes, not containers: what belongs to
// one is told by package sandbox.
package criu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// rollBack is how long CRIU may take to undo what it has begun after it was told to stop. Killing it at once would leave
// connections in repair mode and the network of the container locked.
const rollBack = 10 * time.Second

// call is one request to a CRIU of its own.
type call struct {
	program string
	typ     rpc.CriuReqType
	opts    *rpc.CriuOpts
	stdio   [3]*os.File // nil is /dev/null. What is restored may inherit them
	files   []*os.File  // are descriptors 4 and up in CRIU
	// foreground keeps CRIU in our session and process group, which what it restores of a shell's job becomes part of.
	// Otherwise it is in a session of its own: a signal to our process group must not end it half way.
	foreground bool
	// spawned is called before the request is sent and may still change it.
	spawned func(pid int) error
	// notify is called at CRIU's action hooks. An error makes CRIU fail and undo. It closes files.
	notify func(script string, pid int, files []*os.File) error
}

// failure is CRIU's answer that it could not do it. What it says is in the log.
type failure struct {
	typ   rpc.CriuReqType
	errno syscall.Errno
	text  string
}

func (f *failure) Error() string {
	s := "CRIU could not do it"
	if f.text != "" {
		s += ": " + f.text
	}
	if f.errno != 0 {
		s += fmt.Sprintf(" (%s)", f.errno.Error())
	}
	return s
}

func (f *failure) Unwrap() error {
	if f.errno == 0 {
		return nil
	}
	return f.errno
}

// do runs the call. When ctx ends, or we do, CRIU finds its socket closed, undoes and exits.
func (c *call) do(ctx context.Context) (*rpc.CriuResp, error) {
	cmd, conn, err := c.start()
	if err != nil {
		return nil, err
	}
	resp, err := c.talk(ctx, cmd.Process.Pid, conn)
	_ = conn.Close() // nothing is under way any more
	werr := reap(cmd)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	// After a pre-dump it waits for more and is not content to hear nothing.
	if err == nil && c.typ != rpc.CriuReqType_PRE_DUMP {
		err = werr
	}
	return resp, err
}

func (c *call) start() (*exec.Cmd, *net.UnixConn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket for CRIU: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "criu"), os.NewFile(uintptr(fds[1]), "criu")
	defer theirs.Close()
	nc, err := net.FileConn(ours)
	_ = ours.Close() // conn is a duplicate
	if err != nil {
		return nil, nil, fmt.Errorf("socket for CRIU: %w", err)
	}
	conn := nc.(*net.UnixConn)
	// Without the option a file of the host's, /etc/criu/default.conf, overrides what is asked for.
	cmd := exec.Command(c.program, "--no-default-config", "swrk", "3")
	// Not assigned as they are: a nil *os.File in an io.Reader is not nil.
	if c.stdio[0] != nil {
		cmd.Stdin = c.stdio[0]
	}
	if c.stdio[1] != nil {
		cmd.Stdout = c.stdio[1]
	}
	if c.stdio[2] != nil {
		cmd.Stderr = c.stdio[2]
	}
	cmd.ExtraFiles = append([]*os.File{theirs}, c.files...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: !c.foreground}
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start CRIU: %w", err), conn.Close())
	}
	return cmd, conn, nil
}

// talk sends the request and answers CRIU's notifications until it has answered the request.
func (c *call) talk(ctx context.Context, pid int, conn *net.UnixConn) (*rpc.CriuResp, error) {
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if c.spawned != nil {
		if err := c.spawned(pid); err != nil {
			return nil, err
		}
	}
	if err := send(conn, &rpc.CriuReq{Type: &c.typ, Opts: c.opts, Features: c.features()}); err != nil {
		return nil, err
	}
	buf, oob := make([]byte, 64<<10), make([]byte, 256)
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return nil, errors.Join(errors.New("CRIU ended without an answer"), err)
		}
		resp := new(rpc.CriuResp)
		if err := proto.Unmarshal(buf[:n], resp); err != nil {
			return nil, fmt.Errorf("answer of CRIU: %w", err)
		}
		if !resp.GetSuccess() {
			return nil, &failure{typ: c.typ, errno: syscall.Errno(resp.GetCrErrno()), text: resp.GetCrErrmsg()}
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			return resp, nil
		}
		files, err := received(oob[:oobn])
		if err != nil {
			return nil, err
		}
		notification := resp.GetNotify()
		if c.notify != nil {
			err = c.notify(notification.GetScript(), int(notification.GetPid()), files)
		}
		// An answer even then: CRIU undoes at once instead of finding out later.
		ack := &rpc.CriuReq{Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: proto.Bool(err == nil)}
		if serr := send(conn, ack); err == nil {
			err = serr
		}
		if err != nil {
			return nil, err
		}
	}
}

// features is what a feature check asks about.
func (c *call) features() *rpc.CriuFeatures {
	if c.typ != rpc.CriuReqType_FEATURE_CHECK {
		return nil
	}
	return &rpc.CriuFeatures{MemTrack: proto.Bool(true), LazyPages: proto.Bool(true)}
}

func send(conn *net.UnixConn, req *rpc.CriuReq) error {
	data, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("request to CRIU: %w", err)
	}
	if _, err := conn.Write(data); err != nil {
		return fmt.Errorf("request to CRIU: %w", err)
	}
	return nil
}

// received are the descriptors that came with a message.
func received(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("descriptors from CRIU: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, fmt.Errorf("descriptors from CRIU: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "from CRIU"))
		}
	}
	return files, nil
}

// reap waits for CRIU, whose socket is closed, and kills it if it takes too long.
func reap(cmd *exec.Cmd) error {
	kill := time.AfterFunc(rollBack, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	// Not cmd.Wait: what has been restored may have our pipes.
	state, err := cmd.Process.Wait()
	if err != nil {
		return fmt.Errorf("wait for CRIU: %w", err)
	}
	if !state.Success() {
		return fmt.Errorf("CRIU: %s", state)
	}
	return nil
}
