package socket

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

const (
	lingerLimit  = 10_000_000_000 // ns in which the service may notice that an app with an end has gone
	maxDeparting = 64             // apps being taken leave of before new connections have to wait
)

// Departed reports whether an app can never come back: its connection was that of a former gate, or the process that it
// names has ended.
func Departed(key instance.App) bool {
	kind, value, _ := strings.Cut(string(key), ":")
	switch kind {
	case "conn":
		return true
	case "pid":
		pid, start, ok := parsePID(value)
		if !ok {
			return false
		}
		now, err := startTime(pid)
		return err != nil || now != start
	}
	return false
}

// parsePID splits "77.8042".
func parsePID(s string) (pid int, start uint64, ok bool) {
	before, after, _ := strings.Cut(s, ".")
	pid, err := strconv.Atoi(before)
	if err != nil {
		return 0, 0, false
	}
	start, err = strconv.ParseUint(after, 10, 64)
	return pid, start, err == nil
}

// watchClient has the loop told when the process that a is has ended.
func (g *Gate) watchClient(a *app) {
	if a.client >= 0 || a.gone {
		return
	}
	value, isPID := strings.CutPrefix(string(a.key), "pid:")
	if !isPID {
		return
	}
	pid, start, _ := parsePID(value)
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		// Looked at after the pidfd was had: it is this process that it stands for.
		if now, stale := startTime(pid); stale != nil || now != start {
			_ = unix.Close(fd)
			err = unix.ESRCH
		}
	}
	if err == nil {
		if a.watched, err = g.watch(fd, unix.EPOLLIN, entry{kind: slotClient, app: a}); err == nil {
			a.client = fd
			return
		}
		_ = unix.Close(fd)
	}
	if !errors.Is(err, unix.ESRCH) {
		g.logApp(a).WithError(err).Error("cannot watch the app's process; its instance is ended with its connections")
	}
	a.gone = true
	g.lookIfOver(a)
}

// clientEnded notes that the process that a is has ended. Others may have inherited its connections.
func (g *Gate) clientEnded(a *app) {
	g.unwatchClient(a)
	a.gone = true
	g.lookIfOver(a)
}

func (g *Gate) unwatchClient(a *app) {
	if a.client >= 0 {
		g.unwatch(a.client, a.watched)
		_ = unix.Close(a.client)
		a.client, a.watched = -1, 0
	}
}

// ends reports whether a is an app that comes to an end: it is a connection, or a process.
func (g *Gate) ends() bool {
	kind := g.cfg.Service.AppKey
	return kind == spec.AppKeyConnection || kind == spec.AppKeyPID
}

// lookIfOver has the round look whether a has ended.
func (g *Gate) lookIfOver(a *app) {
	if len(a.conns)+len(a.direct) == 0 && g.ends() {
		g.over = append(g.over, a)
	}
}

func (g *Gate) leaveAll() {
	over := g.over
	g.over = nil
	for _, a := range over {
		g.leave(a)
	}
}

// leave ends a's instance if a has ended.
func (g *Gate) leave(a *app) {
	if len(a.conns)+len(a.direct) > 0 || g.apps[a.key] != a || g.cfg.Service.AppKey == spec.AppKeyPID && !a.gone {
		return
	}
	switch a.phase {
	case phaseBusy, phaseLeaving: // resume or fail asks again
		return
	case phaseReady:
		if g.strict && !a.inst.Dormant() {
			// Nobody else may run before it is dead: its pidfd tells.
			a.phase = phaseLeaving
			a.settleFrom = 0
			if err := unix.PidfdSendSignal(a.inst.PIDFD(), unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
				g.logApp(a).WithError(err).Error("cannot end the instance of an app that has gone")
			}
			return
		}
	}
	g.farewell(a)
}

// farewell has the monitor discard what a had.
func (g *Gate) farewell(a *app) {
	g.occupy(a)
	a.due, a.settleFrom = "", 0
	g.departing++
	g.background(func(ctx context.Context) func() {
		err := g.cfg.Monitor.Left(context.WithoutCancel(ctx), a.key)
		return func() {
			g.departing--
			if err != nil {
				g.logApp(a).WithError(err).Error("cannot discard what an app that has gone had")
			}
			g.forget(a)
		}
	})
}

// forget drops a, unless a connection has come that it had opened before it ended.
func (g *Gate) forget(a *app) {
	g.dropDirect(a, func(*direct) bool { return true })
	a.inst = nil
	a.ready, a.undialed, a.fresh, a.dirty = nil, nil, nil, nil
	g.dropHolds(a, gate.ErrUnknownApp)
	if len(a.conns) > 0 {
		a.phase = phaseEmpty
		g.load(a)
		return
	}
	g.unwatchClient(a)
	delete(g.apps, a.key)
	g.statsMu.Lock()
	delete(g.stats, a.key)
	g.statsMu.Unlock()
}

// limitLinger bounds how long an app that comes to an end waits for the service to notice.
func (g *Gate) limitLinger(a *app) {
	if g.ends() {
		g.clock.set(&a.alarms, alarmLinger, g.now()+lingerLimit)
	}
}

// endLinger closes the connections of a whose end the service has not noticed.
func (g *Gate) endLinger(a *app) {
	for i := len(a.conns) - 1; i >= 0; i-- {
		if c := a.conns[i]; c.linger {
			g.remove(c)
		}
	}
}
