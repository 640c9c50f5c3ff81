package instance

import (
	"fmt"
	"time"
)

// CrashLoop says when crashes make a loop, after which the app is quarantined.
type CrashLoop struct {
	// Stalled crashes within Window, with fewer than Progress transactions answered and no checkpoint taken between
	// each and the next, are a loop: the app's next request crashes it whatever it is restored to.
	Stalled  int
	Progress uint64
	// Total crashes within Window are a loop even with progress in between: one connection of the app may crash
	// the instance over and over while another gets its answers.
	Total  int
	Window time.Duration
}

// DefaultCrashLoop quarantines after 5 crashes in 30 s without an answer in between, or 50 in all.
var DefaultCrashLoop = CrashLoop{Stalled: 5, Progress: 1, Total: 50, Window: 30 * time.Second}

// crash counts one. It may be called with the crashes of a journal that was written under other limits.
func (e *entry) crash(c Crash, l CrashLoop) {
	progress := true
	if n := len(e.recent); n > 0 {
		last := e.recent[n-1]
		newest := e.newest()
		progress = c.Transactions-min(last.Transactions, c.Transactions) >= max(l.Progress, 1) ||
			newest != nil && newest.Time.After(last.Time)
	}
	if progress {
		e.stalled = 0
	}
	e.stalled++
	e.crashes++
	e.transactions = max(e.transactions, c.Transactions)
	e.recent = append(e.recent, c)
	if keep := max(l.Stalled, l.Total, 1); len(e.recent) > keep {
		e.recent = append(e.recent[:0], e.recent[len(e.recent)-keep:]...)
	}
}

// loop says in which way the crashes until now are a loop, or "".
func (e *entry) loop(now time.Time, l CrashLoop) string {
	within := 0
	for i := len(e.recent) - 1; i >= 0 && now.Sub(e.recent[i].Time) <= l.Window; i-- {
		within++
	}
	switch {
	case within == 0:
	case l.Stalled > 0 && min(within, e.stalled) >= l.Stalled:
		return fmt.Sprintf("crash loop: %d crashes within %v with nothing answered in between, the last by %s",
			min(within, e.stalled), l.Window, e.recent[len(e.recent)-1].cause())
	case l.Total > 0 && within >= l.Total:
		return fmt.Sprintf("crash loop: %d crashes within %v, the last by %s", within, l.Window, e.recent[len(e.recent)-1].cause())
	}
	return ""
}

// forgive forgets the loop: somebody looked at the app and restored it by hand.
func (e *entry) forgive() {
	e.stalled = 0
	if n := len(e.recent); n > 0 {
		e.recent = append(e.recent[:0], e.recent[n-1])
	}
}
