package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"
	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// Process is a program of the host, which belongs to no container and has no terminal, with the processes that it has started. It
// leads a session of its own.
type Process struct {
	Program Program
	PID     int
	Dir     *os.File // where the image goes and comes from, with CRIU's log; may be on a file system that is mounted nowhere
}

// Dump writes an image. frozen is how long the process could not run; it ends if it is not left running, and goes on after an
// error. ErrCRIU.
func (p *Process) Dump(ctx context.Context, leaveRunning bool) (frozen time.Duration, err error) {
	opts := p.request(dumpLog)
	opts.Pid, opts.LeaveRunning = proto.Int32(int32(p.PID)), proto.Bool(leaveRunning)
	if err := p.call(ctx, rpc.CriuReqType_DUMP, opts); err != nil {
		return 0, err
	}
	all, err := decode[stats.StatsEntry](p.path(), "stats-dump")
	if err != nil {
		return 0, fmt.Errorf("CRIU's statistics: %w", err)
	}
	if len(all) != 1 || all[0].GetDump() == nil {
		return 0, fmt.Errorf("%w: it left no statistics of its dump", ErrCRIU)
	}
	return time.Duration(all[0].GetDump().GetFrozenTime()) * time.Microsecond, nil
}

// Restore makes the process again, with its pid, from what Dump has written. It is a child of ours, and runs. ErrCRIU.
func (p *Process) Restore(ctx context.Context) error {
	opts := p.request(restoreLog)
	opts.RstSibling = proto.Bool(true)
	return p.call(ctx, rpc.CriuReqType_RESTORE, opts)
}

// path is that of Dir, as long as it is open.
func (p *Process) path() string { return fmt.Sprintf("/proc/self/fd/%d", p.Dir.Fd()) }

func (p *Process) request(log string) *rpc.CriuOpts {
	return &rpc.CriuOpts{
		ImagesDirFd:       proto.Int32(int32(p.Dir.Fd())),
		LogLevel:          proto.Int32(logLevel),
		LogFile:           proto.String(log),
		ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(), // it stays in those of whoever restores it
	}
}

func (p *Process) call(ctx context.Context, typ rpc.CriuReqType, opts *rpc.CriuOpts) error {
	ctx, cancel := (&Options{}).limited(ctx)
	defer cancel()
	c := call{program: p.Program.Path, typ: typ, opts: opts}
	_, err := c.do(ctx)
	if err == nil || context.Cause(ctx) != nil {
		return err
	}
	log := opts.GetLogFile()
	path := p.path() + "/" + log
	if _, serr := os.Stat(path); errors.Is(serr, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrCRIU, err) // it had not come so far
	}
	return explain(err, path)
}
