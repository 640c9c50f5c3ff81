package socket

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A reply may come in pieces, and the gate cannot tell a piece from the whole. It is taken for the whole once the
// instance has been seen at rest after it: parked at a boundary, or with every thread asleep in a look that is taken some
// milliseconds after the last byte. If the instance dies before that, the connection is closed rather than left
// waiting. If it dies not long after, the connection is closed unless its app speaks soon: a service that waits for
// something in the middle of a reply looks like one at rest.

const (
	lookAfter    = 2_000_000      // ns without a byte before a look
	lookLimit    = 100_000_000    // ns between two looks at an instance that does not come to rest
	recentLimit  = 60_000_000_000 // ns since a reply, in which the instance may still have been about to go on with it
	silenceLimit = 3_000_000_000  // ns after a crash in which the app of an unsure connection has to speak
)

// heard notes that bytes have come from the instance on c.
func (g *Gate) heard(c *conn) {
	a := c.app
	c.restless, c.rests, c.heardAt = true, a.rests, a.forwards
	a.restless, a.awake, a.heardTime = true, false, g.now()
	if !a.stirred {
		g.stir(a)
	}
}

// rested notes that a's instance is in the middle of nothing.
func (g *Gate) rested(a *app) {
	a.rests++
	a.restless, a.restAt = false, g.now()
}

// stir plans a look at a's instance.
func (g *Gate) stir(a *app) {
	a.stirred = true
	g.stirred = append(g.stirred, a)
	if !g.looking {
		g.lookWait = lookAfter
		g.planLook()
	}
}

func (g *Gate) planLook() {
	g.looking = true
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(g.lookWait)}
	if err := unix.TimerfdSettime(g.lookfd, 0, &spec, nil); err != nil {
		g.log.WithError(err).Error("cannot set a timer")
	}
}

// look finds out which of the restless instances have come to rest.
func (g *Gate) look() {
	var b [8]byte
	_, _ = unix.Read(g.lookfd, b[:])
	g.looking = false
	g.lookWait = min(2*g.lookWait, lookLimit)
	g.stirred = slices.DeleteFunc(g.stirred, func(a *app) bool {
		if a.restless && a.phase == phaseReady && !a.inst.Dormant() {
			if a.open > 0 || a.heldBack() || g.now() < a.heardTime+lookAfter {
				g.lookWait = lookAfter
				return false
			}
			if !a.asleep() {
				a.awake = true
				return false
			}
			g.rested(a)
		}
		a.stirred = false
		return true
	})
	if len(g.stirred) > 0 {
		g.planLook()
	}
}

// asleep reports whether all threads of a's instance sleep. A timed sleep of the first one does not count: a service
// that does one thing after another goes on after it.
func (a *app) asleep() bool {
	pid := a.inst.PID()
	dir, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false // it has died, which its pidfd tells
	}
	defer dir.Close()
	tids, err := dir.Readdirnames(-1)
	if err != nil {
		return false
	}
	for _, tid := range tids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, tid))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if f := statFields(stat); len(f) == 0 || f[0] != "S" {
			return false
		}
	}
	call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	if err != nil {
		return true // this kernel does not tell
	}
	nr, _, _ := strings.Cut(string(call), " ")
	return nr != strconv.Itoa(unix.SYS_NANOSLEEP) && nr != strconv.Itoa(unix.SYS_CLOCK_NANOSLEEP)
}

// statFields are those of /proc/PID/stat after the command name: state ppid pgrp …
func statFields(b []byte) []string {
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
}
