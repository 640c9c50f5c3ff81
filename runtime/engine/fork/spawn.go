package fork

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
)

const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD |
	unix.CLONE_SYSVSEM | unix.CLONE_SETTLS | unix.CLONE_CHILD_SETTID | unix.CLONE_CHILD_CLEARTID

const leaderFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SETTLS |
	unix.CLONE_CHILD_SETTID | unix.CLONE_CHILD_CLEARTID | unix.CLONE_PIDFD

// spawn creates the threads of an instance around an anchor. Each begins in the stub, parked on its own frame, and
// no ptrace is involved: what a thread has to do to become the captured one is a batch of its own.
type spawn struct {
	a         *anchor
	threads   []threadState // the leader first
	sameIDs   bool          // in a pid namespace of their own, under the same ids
	seccomp   bool
	plan      *plan
	binder    *planFD  // nil: no Binder device
	signals   *signals // nil: there is nothing pending and no timer
	timerIDs  []uint64 // where those of the new process are
	captures  []capture
	initPidfd uint64
	leadPidfd uint64
}

// capture is what a thread says about itself while it parks; see captureBatch.
type capture struct {
	clearTID  uint64
	altStack  [24]byte
	robust    uint64
	robustLen uint64
	name      [16]byte
	cpus      [cpusSize]byte // with zeros behind what the kernel has
	nice      int64          // in getpriority's encoding
	slack     int64          // nanoseconds
}

// Offsets in the capture area of a slot.
const (
	captureName = 48
	captureCPUs = 64
	cpusSize    = 128
	captureSize = captureCPUs + cpusSize
)

// captureBatch is run by every thread each time it parks. The leader also says whether the process has an interval timer:
// nothing shows that from outside.
func captureBatch(slot uint64, leader bool) *batch {
	b := &batch{at: slot + slotBatch}
	at := slot + slotCapture
	b.call(unix.SYS_PRCTL, unix.PR_GET_TID_ADDRESS, at)
	b.call(unix.SYS_SIGALTSTACK, 0, at+8)
	b.call(unix.SYS_GET_ROBUST_LIST, 0, at+32, at+40)
	b.call(unix.SYS_PRCTL, unix.PR_GET_NAME, at+captureName)
	b.try(unix.SYS_SCHED_GETAFFINITY, 0, cpusSize, at+captureCPUs)
	b.try(unix.SYS_GETPRIORITY, unix.PRIO_PROCESS, 0)
	b.try(unix.SYS_PRCTL, unix.PR_GET_TIMERSLACK)
	b.call(unix.SYS_RT_SIGPENDING, slot+slotNotes, 8)
	for which := range 3 {
		if leader {
			b.call(unix.SYS_GETITIMER, which, slot+slotNotes+8+uint64(which)*32)
		}
	}
	return b
}

// Entries of captureBatch whose results count. They lie behind what spawn.own puts there, so that they are right also
// for a thread that has never run since it was made.
const (
	entryNice  = ref(6)
	entrySlack = ref(7)
)

// decodeCapture decodes a slot from slotBatch on.
func decodeCapture(b []byte) capture {
	le := binary.LittleEndian
	at := b[slotCapture-slotBatch:]
	c := capture{
		clearTID: le.Uint64(at), robust: le.Uint64(at[32:]), robustLen: le.Uint64(at[40:]),
		nice: result(b, entryNice), slack: result(b, entrySlack),
	}
	copy(c.altStack[:], at[8:])
	copy(c.name[:], at[captureName:])
	copy(c.cpus[:], at[captureCPUs:])
	return c
}

// readCaptures reads what the parked threads said.
func (s *spawn) readCaptures() error {
	s.captures = make([]capture, len(s.threads))
	var b [slotCapture - slotBatch + captureSize]byte
	for i := range s.threads {
		t := &s.threads[i]
		if err := readMem(s.a.PID, s.a.arena.slot(t.Slot)+slotBatch, b[:]); err != nil {
			return gone(s.a.PID, err)
		}
		s.captures[i] = decodeCapture(b[:])
		if !s.seccomp { // else they say it only once, and it was read from outside
			t.scheduling(&s.captures[i])
		}
	}
	return nil
}

// own queues what thread i does first: registrations that a clone does not inherit.
func (s *spawn) own(i int, b *batch) {
	t, c := s.threads[i], s.captures[i]
	at := s.a.arena.slot(t.Slot) + slotCapture
	if c.robust != 0 {
		b.call(unix.SYS_SET_ROBUST_LIST, c.robust, c.robustLen)
	}
	if t.Rseq.Ptr != 0 {
		b.call(unix.SYS_RSEQ, t.Rseq.Ptr, int(t.Rseq.Size), 0, int(t.Rseq.Sig))
	}
	const ssDisable = 2
	if binary.LittleEndian.Uint32(c.altStack[8:])&ssDisable == 0 {
		b.call(unix.SYS_SIGALTSTACK, at+8, 0)
	}
	b.call(unix.SYS_PRCTL, unix.PR_SET_NAME, at+captureName)
	if t.GSBase != 0 {
		b.call(unix.SYS_ARCH_PRCTL, 0x1001, t.GSBase) // ARCH_SET_GS
	}
	s.enterBinder(t, b)
	queue(b, t.Pending, true)
}

// header writes a thread's context: run b, then park on the frame that is in the slot.
func (s *spawn) header(i int, b *batch) error {
	slot := s.a.arena.slot(s.threads[i].Slot)
	head := make([]byte, ctxSize)
	stubContext{
		batch: b.at, n: len(b.entries), kind: kindThread, ctl: s.a.arena.ctl(s.a.side), frame: slot + slotFrame,
	}.put(head)
	return errors.Join(writeMem(s.a.PID, slot, head), writeMem(s.a.PID, b.at, b.encode()), writeMem(s.a.PID, b.dataAt, b.data))
}

func (s *spawn) setTID(b *batch, args *cloneArgs, tid int) {
	if s.sameIDs {
		args.setTID, args.setTIDSize = b.put(binary.LittleEndian.AppendUint32(nil, uint32(tid)), 4), 1
	}
}

// run creates the threads and returns the leader and, with sameIDs, the init of its pid namespace.
func (s *spawn) run(ctx context.Context) (leader, initp process, err error) {
	if err := s.readCaptures(); err != nil {
		return process{}, process{}, err
	}
	base := s.a.batch()
	// The leader's batch and its data lie in the second half of the data area: the agent's own batch comes first.
	lead := &batch{at: base.dataAt + 16<<10, dataAt: base.dataAt + 128<<10}
	s.own(0, lead)
	tids := map[int]uint64{}
	for i := 1; i < len(s.threads); i++ {
		t := s.threads[i]
		own := &batch{at: s.a.arena.slot(t.Slot) + slotBatch}
		if s.loops(t) || len(t.Pending) > 0 { // it is too long to lie there, before what the thread has said about itself
			own.at, own.dataAt = s.a.arena.slot(t.Slot)+slotOwn, s.a.arena.slot(t.Slot)+slotOwnData
		}
		s.own(i, own)
		if err := s.header(i, own); err != nil {
			return process{}, process{}, err
		}
		args := cloneArgs{flags: threadFlags, childTID: s.captures[i].clearTID, tls: t.FSBase}
		s.setTID(lead, &args, t.TID)
		if r := lead.clone(args, s.a.arena.slot(t.Slot)); !s.sameIDs {
			tids[t.TID] = lead.at + uint64(r-1)*entrySize + entryResult
		}
	}
	if s.signals != nil { // once there are the threads that timers signal
		s.timerIDs = s.signals.arm(lead, tids)
		queue(lead, s.signals.Pending, false)
	}
	if len(lead.entries)*entrySize > 112<<10 {
		return process{}, process{}, fmt.Errorf("%d threads with their timers and signals are too many", len(s.threads))
	}
	if err := s.header(0, lead); err != nil {
		return process{}, process{}, err
	}
	if err := s.cloneLeader(ctx); err != nil {
		return process{}, process{}, err
	}
	return s.collect(ctx, lead)
}

// cloneLeader makes the agent clone the leader, by way of a namespace init if the ids are to be the same.
func (s *spawn) cloneLeader(ctx context.Context) error {
	b := s.a.batch()
	s.initPidfd, s.leadPidfd = b.reserve(8, 8), b.reserve(8, 8)
	t, c := s.threads[0], s.captures[0]
	args := cloneArgs{
		flags: leaderFlags, pidfd: s.leadPidfd, childTID: c.clearTID, tls: t.FSBase, exitSignal: uint64(unix.SIGCHLD),
	}
	s.setTID(b, &args, t.TID)
	if !s.sameIDs {
		b.clone(args, s.a.arena.slot(t.Slot))
		_, err := s.a.exec(ctx, b)
		return err
	}
	// The init runs the leader's clone and then waits for ever: its control page is private memory that nobody writes.
	ctx3, page := s.a.arena.agent(2), s.a.arena.agent(4)
	ib := &batch{at: b.at + 16*entrySize, dataAt: b.dataAt + 4096}
	argsAt := b.put(args.encode(), 8)
	r := ib.call(unix.SYS_CLONE3, argsAt, cloneArgsSize)
	ib.entries[r-1].kind, ib.entries[r-1].child = entryClone, s.a.arena.slot(t.Slot)
	head := make([]byte, ctxSize)
	stubContext{batch: ib.at, n: 1, kind: kindAgent, ctl: page}.put(head)
	idle := make([]byte, 0x100)
	binary.LittleEndian.PutUint32(idle[ctlCmd:], 1)
	if err := errors.Join(writeMem(s.a.PID, ib.at, ib.encode()), writeMem(s.a.PID, ctx3, head), writeMem(s.a.PID, page, idle)); err != nil {
		return gone(s.a.PID, err)
	}
	b.clone(cloneArgs{
		flags: unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_NEWPID |
			unix.CLONE_PARENT | unix.CLONE_PIDFD,
		pidfd: s.initPidfd,
	}, ctx3)
	if _, err := s.a.exec(ctx, b); err != nil {
		return fmt.Errorf("make a pid namespace: %w", err)
	}
	return s.poll(ctx, func() (bool, error) {
		n, err := s.a.readInt(page + ctlDone)
		if err != nil || n == 0 {
			return false, err
		}
		res := make([]byte, entrySize)
		if err := readMem(s.a.PID, ib.at, res); err != nil {
			return false, gone(s.a.PID, err)
		}
		if v := result(res, 1); v < 0 {
			return false, fmt.Errorf("clone leader with pid %d: %w", t.TID, unix.Errno(-v))
		}
		return true, nil
	})
}

// poll repeats until ready or ctx is done. Nothing here is on the transaction path.
func (s *spawn) poll(ctx context.Context, ready func() (bool, error)) error {
	for look := newPatience(); ; look.wait() {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("instance does not come up: %w", err)
		}
		if !s.a.alive() {
			return fmt.Errorf("process %d: %w", s.a.PID, engine.ErrGone)
		}
	}
}

// collect waits until all threads are parked and takes hold of the processes.
func (s *spawn) collect(ctx context.Context, lead *batch) (leader, initp process, err error) {
	if leader, err = s.take(s.leadPidfd); err != nil {
		return leader, initp, err
	}
	if s.sameIDs {
		if initp, err = s.take(s.initPidfd); err != nil {
			leader.close()
			return leader, initp, err
		}
	}
	fail := func(err error) (process, process, error) {
		return leader, initp, errors.Join(err, leader.end(), initp.end())
	}
	for i := range s.threads {
		slot := s.a.arena.slot(s.threads[i].Slot)
		err := s.poll(ctx, func() (bool, error) {
			var h [ctxSize]byte
			if err := readMem(s.a.PID, slot, h[:]); err != nil {
				return false, gone(s.a.PID, err)
			}
			if left := binary.LittleEndian.Uint64(h[ctxFailed:]); left != 0 {
				return false, fmt.Errorf("thread %d: registration fails (%d calls left)", s.threads[i].TID, left)
			}
			if !leader.alive() {
				return false, fmt.Errorf("leader: %w", engine.ErrGone)
			}
			return binary.LittleEndian.Uint32(h[ctxParked:]) == 1, nil
		})
		if err != nil {
			return fail(err)
		}
	}
	enc := make([]byte, len(lead.entries)*entrySize)
	if err := readMem(s.a.PID, lead.at, enc); err != nil {
		return fail(gone(s.a.PID, err))
	}
	if err := s.signals.checkIDs(s.a.PID, s.timerIDs); err != nil {
		return fail(err)
	}
	// Without ids of its own choosing a thread gets a new one.
	for n, i := 0, 1; n < len(lead.entries) && !s.sameIDs; n++ {
		if lead.entries[n].kind == entryClone {
			s.threads[i].TID = int(result(enc, ref(n+1)))
			i++
		}
	}
	b := s.a.batch()
	b.dataAt += 64
	b.call(unix.SYS_CLOSE, intAt(s.leadPidfd))
	if s.sameIDs {
		b.call(unix.SYS_CLOSE, intAt(s.initPidfd))
	}
	if _, err := s.a.exec(ctx, b); err != nil {
		return fail(err)
	}
	return leader, initp, nil
}

func (s *spawn) take(addr uint64) (process, error) {
	n, err := s.a.readInt(addr)
	if err != nil {
		return process{}, err
	}
	return takeProcess(s.a, n)
}

// adoptThreads fills t with the threads of a process whose states are known.
func adoptThreads(t *tracee, states []threadState) error {
	byTID := make(map[int]threadState, len(states))
	for _, s := range states {
		byTID[s.TID] = s
	}
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", t.pid))
	if err != nil {
		return gone(t.pid, err)
	}
	for _, n := range names {
		tid, err := strconv.Atoi(n.Name())
		if err != nil {
			return err
		}
		inner, err := innerTID(t.pid, tid)
		if errors.Is(err, engine.ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		th := thread{tid: tid}
		if s, ok := byTID[inner]; ok {
			th.state, th.known = s, true
		} else if len(states) == 1 && tid == t.pid {
			th.state, th.known = states[0], true
			th.state.TID = inner
		}
		t.threads = append(t.threads, th)
		if last := len(t.threads) - 1; tid == t.pid { // listed by name it need not be the first: see awaitAll
			t.threads[0], t.threads[last] = t.threads[last], t.threads[0]
		}
	}
	return nil
}

// knownThreads is adoptThreads for a process that has just been spawned with exactly these threads under these ids: then they need
// not be looked up one by one in /proc.
func knownThreads(t *tracee, states []threadState) error {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", t.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return gone(t.pid, err)
	}
	defer unix.Close(ns)
	for _, s := range states {
		tid, err := translate(ns, s.TID)
		if err != nil {
			return fmt.Errorf("thread %d of process %d: %w", s.TID, t.pid, err)
		}
		t.threads = append(t.threads, thread{tid: tid, state: s, known: true})
	}
	return nil
}
