package fork

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/check"
	"corsa.dev/corsa/runtime/engine"
)

const (
	// adoptPatience is how long a service may take to come to rest when it is adopted. One with a thread that never
	// waits is then stopped wherever it is: its memory is consistent at any instant.
	adoptPatience = 2 * time.Second
	// provisional is how long, in seconds, an adopted service stays parked if nobody makes the adoption final:
	// if the engine dies before, the service runs on by itself.
	provisional = 10
)

// adoption is one Adopt under way. Until it is final every step can be taken back.
type adoption struct {
	t       engine.Target
	tracee  *tracee
	pidfd   int
	arena   arena
	pages   [2]*ctl
	parker  parker
	plan    *plan
	threads []threadState
	shared  []mapping
	files   *privateFiles
	written tree // the base's
	use     filesInUse
	signals *signals
	advice  *advice
	future  bool // mlockall(MCL_FUTURE)
	seccomp bool
}

func (ad *adoption) run(ctx context.Context) (*anchor, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if ad.seccomp {
		ad.tracee.options = unix.PTRACE_O_SUSPEND_SECCOMP
	}
	if err := ad.stop(ctx); err != nil {
		return nil, err
	}
	err := ad.rehearse()
	if err == nil {
		err = ad.enter()
	}
	if err != nil {
		ad.tracee.release()
		return nil, err
	}
	x, err := ad.capture(ctx)
	if err != nil {
		ad.pages[0].setRun(runGo)
		return nil, err
	}
	x.own.probation(false)
	ad.pages[0].setRun(runParked)
	ad.pages[0].wake(ctlRun)
	return x, nil
}

// stop stops the service at rest and checks it once more, now that it cannot change.
func (ad *adoption) stop(ctx context.Context) error {
	deadline := time.Now().Add(adoptPatience)
	for {
		err := ad.tracee.stop(100 * time.Millisecond)
		if err == nil {
			break
		}
		if errors.Is(err, engine.ErrBusy) && time.Now().After(deadline) {
			if err = ad.tracee.stop(0); err == nil {
				break
			}
		}
		if ad.seccomp && errors.Is(err, unix.EPERM) {
			return fmt.Errorf("stop the service: %w: its seccomp filter can be suspended only by who is root of the host; "+
				"way out: be that, or run the service without a filter", err)
		}
		if !errors.Is(err, engine.ErrBusy) {
			return fmt.Errorf("stop the service: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	opts := checkOptions(ad.t, false)
	opts.Tracer = unix.Gettid()
	report, err := check.Process(ad.t.PID, opts)
	if err == nil {
		err = report.Err()
	}
	if err != nil {
		ad.tracee.release()
	}
	return err
}

// rehearse reads what capture will read, of the stopped process: what cannot be carried is refused before anything is changed.
func (ad *adoption) rehearse() error {
	if _, _, err := ad.capturer(nil).runWith(ad.files, ad.t.PID); err != nil {
		return err
	}
	if _, err := readAdvice(ad.t.PID, 0, false); err != nil {
		return err
	}
	g := parkedGroup{t: ad.tracee}
	if err := g.peek(&signals{}, nil); err != nil {
		return err
	}
	b := make([]byte, slotSize)
	for i := range ad.tracee.threads {
		th := &ad.tracee.threads[i]
		if _, err := getXstate(th.tid, b); err != nil {
			return fmt.Errorf("thread %d: extended state: %w", th.tid, gone(th.tid, err))
		}
		th.tiles = usesTiles(b)
	}
	return noTiles(ad.t.PID, ad.tracee.threads)
}

// capturer is for the service itself.
func (ad *adoption) capturer(binder *engine.Broker) *capturer {
	return &capturer{
		pid: ad.t.PID, pidfd: ad.pidfd, declared: ad.t.Listeners, shared: ad.t.Shared, binder: binder, binderPID: ad.t.PID,
	}
}

func checkOptions(t engine.Target, deep bool) check.Options {
	o := check.Options{Shared: t.Shared, Private: t.Private, Listeners: t.Listeners, Deep: deep}
	if t.Broker != nil {
		o.Broker = t.Broker.Device
	}
	return o
}

// enter puts the arena into the stopped service and sends its threads, provisionally, into the stub.
func (ad *adoption) enter() error {
	leader := ad.leader()
	if leader == nil {
		return &engine.Refusal{PID: ad.t.PID, Blockers: []engine.Blocker{{
			Object: fmt.Sprintf("thread %d", ad.t.PID), Reason: "the first thread of the process has ended",
			WayOut: "the service has to keep its main thread",
		}}}
	}
	if ad.seccomp {
		if err := checkFilter(ad.t.PID, leader.tid); err != nil {
			return err
		}
	}
	b, err := newBootstrap(ad.t.PID, leader.tid, &leader.regs)
	if err != nil {
		return err
	}
	if err := ad.reserve(b); err != nil {
		return err
	}
	at := ad.arena
	if _, err := b.call(unix.SYS_MADVISE, uint64(at), arenaSize, unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("arena: %w", err)
	}
	if err := writeMem(ad.t.PID, uint64(at), stubCode); err != nil {
		return err
	}
	if _, err := b.call(unix.SYS_MPROTECT, uint64(at), pageSize, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		return fmt.Errorf("arena: %w", err)
	}
	for side := range ad.pages {
		if ad.pages[side], err = ad.page(b, side); err != nil {
			return fmt.Errorf("control page: %w", err)
		}
	}
	if err := b.clear(); err != nil {
		return err
	}
	ad.pages[0].reset(0)
	ad.pages[0].setRun(runProvisional)
	ad.parker = parker{
		t: ad.tracee, arena: ad.arena, side: 0, used: make([]bool, maxThreads), limit: provisional, seccomp: ad.seccomp,
	}
	return ad.parker.park()
}

// reserve maps the arena. If what the service maps is locked at once (mlockall with MCL_FUTURE), the arena is not to be.
func (ad *adoption) reserve(b *bootstrap) error {
	before, err := lockedBytes(ad.t.PID)
	if err != nil {
		return err
	}
	at, err := b.call(unix.SYS_MMAP, 0, arenaSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE, ^uint64(0), 0)
	if errors.Is(err, unix.EAGAIN) {
		return &engine.Refusal{PID: ad.t.PID, Blockers: []engine.Blocker{{
			Object: fmt.Sprintf("memory of process %d", ad.t.PID),
			Reason: "all that it maps is locked in memory (mlockall with MCL_FUTURE), and RLIMIT_MEMLOCK leaves no room for the engine's",
			WayOut: "raise its RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=), leave it CAP_IPC_LOCK, or start it without mlockall",
		}}}
	}
	if err != nil {
		return fmt.Errorf("arena: %w", err)
	}
	ad.arena = arena(at)
	after, err := lockedBytes(ad.t.PID)
	if err != nil {
		return err
	}
	if ad.future = after > before; ad.future {
		if _, err := b.call(unix.SYS_MUNLOCK, uint64(at), arenaSize); err != nil {
			return fmt.Errorf("arena: %w", err)
		}
	}
	if _, err := b.call(unix.SYS_MPROTECT, uint64(at), arenaSize, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return fmt.Errorf("arena: %w", err)
	}
	return nil
}

func (ad *adoption) leader() *thread {
	for i := range ad.tracee.threads {
		if ad.tracee.threads[i].tid == ad.t.PID {
			return &ad.tracee.threads[i]
		}
	}
	return nil
}

// page makes a control page in the service and maps it here.
func (ad *adoption) page(b *bootstrap, side int) (*ctl, error) {
	name := uint64(ad.arena) + offData
	if err := writeMem(ad.t.PID, name, []byte("corsa\x00")); err != nil {
		return nil, err
	}
	n, err := b.call(unix.SYS_MEMFD_CREATE, name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if _, err := b.call(unix.SYS_FTRUNCATE, uint64(n), pageSize); err != nil {
		return nil, err
	}
	if _, err := b.call(unix.SYS_MMAP, ad.arena.ctl(side), pageSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_FIXED, uint64(n), 0); err != nil {
		return nil, err
	}
	fd, err := unix.PidfdGetfd(ad.pidfd, int(n), 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if _, err := b.call(unix.SYS_CLOSE, uint64(n)); err != nil {
		return nil, err
	}
	return mapCtl(fd)
}

// capture forks the base out of the parked service.
func (ad *adoption) capture(ctx context.Context) (*anchor, error) {
	if err := ad.parker.awaitParked(time.Now().Add(adoptPatience)); err != nil {
		return nil, err
	}
	for i := range ad.tracee.threads {
		th := &ad.tracee.threads[i]
		if ad.seccomp {
			th.state.readScheduling(th.tid)
		}
		ad.threads = append(ad.threads, th.state)
	}
	leaderFirst(ad.threads, ad.leader().state.TID)
	files := procFiles{pid: ad.t.PID}
	defer files.close()
	g := parkedGroup{t: ad.tracee, arena: ad.arena, limit: provisional, seccomp: ad.seccomp, files: &files}
	var err error
	if ad.signals, err = g.readSignals(ad.threads); err != nil {
		return nil, err
	}
	if ad.plan, ad.use, err = ad.capturer(ad.t.Broker).runWith(ad.files, ad.t.PID); err != nil {
		return nil, err
	}
	if err := ad.files.save(ad.written, ad.t.PID, ad.plan); err != nil {
		return nil, fmt.Errorf("private files: %w", err)
	}
	if ad.shared, err = sharedAnonymous(ad.t.PID, ad.arena); err != nil {
		return nil, err
	}
	if ad.advice, err = readAdvice(ad.t.PID, ad.arena, ad.future); err != nil {
		return nil, err
	}
	// The service itself plays the anchor for this one fork: its parked leader runs the batch.
	t := &anchor{process: process{identity{PID: ad.t.PID}, ad.pidfd}, arena: ad.arena, side: 0}
	if ad.advice != nil {
		t.apart = ad.advice.DontFork
	}
	b, child, pidfdAt := t.forkEntries(0, unshareMappings(ad.shared), true)
	if err := t.loadChild(child, 1); err != nil {
		return nil, err
	}
	ad.pages[1].reset(1)
	ad.pages[1].probation(true)
	if _, err := ad.leaderRuns(b); err != nil {
		return nil, fmt.Errorf("fork the base: %w", err)
	}
	pidfd, err := t.readInt(pidfdAt)
	if err != nil {
		return nil, err
	}
	p, err := takeProcess(t, pidfd)
	if err != nil {
		return nil, fmt.Errorf("fork the base: %w", err)
	}
	x := &anchor{process: p, arena: ad.arena, side: 1, own: ad.pages[1]}
	ad.pages[1] = nil
	closing := t.batch()
	closing.call(unix.SYS_CLOSE, pidfd)
	if _, err := ad.leaderRuns(closing); err != nil {
		return nil, errors.Join(err, x.discard())
	}
	if err := x.own.await(ctx, 1, x.alive); err != nil {
		return nil, errors.Join(fmt.Errorf("base: %w", err), x.discard())
	}
	if err := x.check(child); err != nil {
		return nil, errors.Join(fmt.Errorf("base: %w", err), x.discard())
	}
	return x, nil
}

func leaderFirst(threads []threadState, tid int) {
	for i := range threads {
		if threads[i].TID == tid {
			threads[0], threads[i] = threads[i], threads[0]
		}
	}
}

// leaderRuns makes the parked leader leave its wait, run the batch and park again.
func (ad *adoption) leaderRuns(b *batch) ([]byte, error) {
	th := ad.leader()
	one := tracee{pid: ad.t.PID, tasks: ad.tracee.tasks, options: ad.tracee.options}
	one.threads = []thread{{tid: th.tid, state: th.state, known: true}}
	if err := one.seize(&one.threads[0]); err != nil {
		return nil, err
	}
	if err := one.awaitAll(); err != nil || len(one.threads) == 0 {
		return nil, gone(ad.t.PID, errors.Join(err, unix.ESRCH))
	}
	defer one.release()
	if !ad.arena.inStub(one.threads[0].regs.Rip) {
		return nil, errors.New("the service's main thread is not parked")
	}
	slot := ad.arena.slot(th.state.Slot)
	head := make([]byte, ctxSize)
	stubContext{
		batch: b.at, n: len(b.entries), kind: kindThread, ctl: ad.arena.ctl(0), frame: slot + slotFrame, limitS: provisional,
	}.put(head)
	if err := errors.Join(writeMem(ad.t.PID, b.at, b.encode()), writeMem(ad.t.PID, b.dataAt, b.data),
		writeMem(ad.t.PID, slot, head)); err != nil {
		return nil, err
	}
	r := one.threads[0].regs
	r.Rip, r.R12, r.Orig_rax = uint64(ad.arena), slot, ^uint64(0)
	if err := setRegs(th.tid, &r); err != nil {
		return nil, gone(ad.t.PID, err)
	}
	one.threads[0].redirected = true
	if !ad.seccomp {
		one.release()
		return ad.awaitLeader(slot, b)
	}
	if err := one.goOn(); err != nil {
		return nil, err
	}
	enc, err := ad.awaitLeader(slot, b)
	return enc, errors.Join(err, one.stopAgain())
}

func (ad *adoption) awaitLeader(slot uint64, b *batch) ([]byte, error) {
	deadline := time.Now().Add(adoptPatience)
	var h [ctxSize]byte
	for {
		if err := readMem(ad.t.PID, slot, h[:]); err != nil {
			return nil, gone(ad.t.PID, err)
		}
		if binary.LittleEndian.Uint32(h[ctxParked:]) == 1 {
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the service's main thread does not park: %w", engine.ErrBusy)
		}
		time.Sleep(10 * time.Microsecond)
	}
	enc := make([]byte, len(b.entries)*entrySize)
	if err := readMem(ad.t.PID, b.at, enc); err != nil {
		return nil, gone(ad.t.PID, err)
	}
	if left := binary.LittleEndian.Uint64(h[ctxFailed:]); left != 0 {
		return nil, b.failure(enc, int(left))
	}
	return enc, nil
}
