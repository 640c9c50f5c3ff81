package socket

// alarmKind says what an alarm is for.
type alarmKind int

const (
	alarmTurn     alarmKind = iota // look at the schedule again
	alarmAccept                    // accept again
	alarmSettle                    // look again whether the app has reached a boundary
	alarmDial                      // dial again what the instance's backlog had no room for
	alarmIdle                      // park the instance if it has been idle
	alarmResume                    // let unfinished transactions go on
	alarmInterval                  // checkpoint=interval
	alarmUnsure                    // close connections that a crash may have cut off
	alarmPart                      // close connections that have got the crash reply
	alarmLinger                    // close those whose end the service does not notice
	alarmHandover                  // look again whether the service has accepted a connection
	alarmSweep                     // look which direct connections have ended
	alarmBeat                      // have apps led on
	alarmTimers                    // activate a dormant instance for its own timers, or ask when
	alarmKinds
)

// alarms are the pending alarms of one app, or of the gate itself (app is nil then): at most one of each kind.
type alarms struct {
	app *app
	at  [alarmKinds]int64
}

type alarm struct {
	at   int64
	of   *alarms
	kind alarmKind
}

// A clockwork is a heap of alarms. Alarms that have been set anew or cancelled stay in it until they are due.
type clockwork struct{ heap []alarm }

// set makes kind ring at the given time, or earlier if it was set to ring earlier.
func (w *clockwork) set(of *alarms, kind alarmKind, at int64) {
	if old := of.at[kind]; old != 0 && old <= at {
		return
	}
	of.at[kind] = at
	w.heap = append(w.heap, alarm{at, of, kind})
	h := w.heap
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if h[up].at <= h[i].at {
			break
		}
		h[up], h[i] = h[i], h[up]
		i = up
	}
}

// next is when the first alarm rings, or 0.
func (w *clockwork) next() int64 {
	if len(w.heap) == 0 {
		return 0
	}
	return w.heap[0].at
}

// due takes out one alarm that is due at now.
func (w *clockwork) due(now int64) (of *alarms, kind alarmKind, ok bool) {
	for len(w.heap) > 0 && w.heap[0].at <= now {
		top := w.pop()
		if top.of.at[top.kind] == top.at {
			top.of.at[top.kind] = 0
			return top.of, top.kind, true
		}
	}
	return nil, 0, false
}

func (w *clockwork) pop() alarm {
	h := w.heap
	top, last := h[0], len(h)-1
	h[0], h[last] = h[last], alarm{}
	h = h[:last]
	for i := 0; ; {
		c := 2*i + 1
		if c >= last {
			break
		}
		if c+1 < last && h[c+1].at < h[c].at {
			c++
		}
		if h[i].at <= h[c].at {
			break
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
	w.heap = h
	return top
}
