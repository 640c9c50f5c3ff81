package socket

// A seat is one app's place in a schedule.
type seat struct {
	owner  *app
	next   *seat
	queued bool
	again  bool  // asked for more while it ran and was not admitted: it queues when its turn ends
	resume bool  // wants only to go on with what a former turn left unfinished
	bulk   bool  // its last turn had many transactions: it gains more by long turns than by early ones
	grant  int64 // how long a resumed turn may keep others waiting
}

// verdict is what the loop has to do with the instance that runs.
type verdict int

const (
	stay    verdict = iota // nothing, until the time that came with it (0: until something happens)
	park                   // park it if that can be done at once
	breakIn                // park it at any instruction: it has kept others waiting for too long
	begin                  // nobody runs and somebody waits: take the next one
)

const (
	maxSlice      = 500_000     // ns that an app may go on taking requests while others wait
	bulkSlice     = 2_000_000   // the same if all who wait had many requests in their last turn
	lingerTime    = 100_000     // ns after an answer in which such an app's next request is waited for
	maxQuantum    = 100_000_000 // ns that a transaction without an end may keep others waiting
	parkRetry     = 200_000     // ns between two tries to park an instance that is busy
	eagerAfter    = 4           // short turns in a row that count as apps talking alternately
	shortTurn     = 2           // transactions; an app with more in a turn is not alternating
	firstGrant    = 10_000_000
	resumeBackoff = 10 // a resumed turn of length t is followed by a pause of resumeBackoff*t
)

// A schedule decides whose instance runs when only one may. It is a pure state machine: times are nanoseconds
// passed in, and it neither reads a clock nor touches an instance. Apps take turns first come, first served.
//
// A turn ends at a transaction boundary, and only if somebody else waits, or if apps have been alternating, so
// that the next turn is likely to be another's: then parking before it is asked for keeps it off that
// app's critical path.
type schedule struct {
	cur        *seat // who runs, or ran last
	running    bool  // cur's instance is active
	since      int64 // start of cur's turn
	contended  int64 // since when somebody else has been waiting in this turn; valid if head is set
	retryAt    int64 // do not try to park before
	served     int   // transactions in this turn
	answeredAt int64 // when the last of them was answered
	streak     int   // short turns in a row
	brief      int   // how many in the queue are not bulk
	head, tail *seat
}

// want queues x for a turn; if it has one, for another after it. A request always outranks the wish to resume.
func (s *schedule) want(x *seat, resume bool, now int64) {
	if s.runs(x) {
		x.again = x.again || !resume
		return
	}
	if x.queued {
		x.resume = x.resume && resume
		return
	}
	x.queued, x.resume, x.next = true, resume, nil
	if !x.bulk {
		s.brief++
	}
	if s.head == nil {
		s.head, s.contended = x, now
	} else {
		s.tail.next = x
	}
	s.tail = x
}

// drop takes x out of the queue.
func (s *schedule) drop(x *seat) {
	if !x.queued {
		return
	}
	var prev *seat
	for y := s.head; y != x; y = y.next {
		prev = y
	}
	if prev == nil {
		s.head = x.next
	} else {
		prev.next = x.next
	}
	if s.tail == x {
		s.tail = prev
	}
	s.left(x)
}

// left notes that x is not in the queue any more.
func (s *schedule) left(x *seat) {
	x.next, x.queued = nil, false
	if !x.bulk {
		s.brief--
	}
}

// relieved reports whether somebody was kept from running on by others who have left the queue since, and may now.
func (s *schedule) relieved() bool { return s.running && s.head == nil && s.cur.again }

// runs reports whether x's instance is the active one.
func (s *schedule) runs(x *seat) bool { return s.running && s.cur == x }

// admits reports whether x may take another request now.
func (s *schedule) admits(x *seat, now int64) bool {
	return s.runs(x) && (s.head == nil || now < s.sliceEnd())
}

// undecided reports whether step would have to know if the instance is quiet.
func (s *schedule) undecided() bool {
	return s.running && (s.head != nil || (s.streak >= eagerAfter && s.served > 0))
}

// step says what to do now. quiet: the running instance has reached a boundary as far as its bytes tell.
func (s *schedule) step(now int64, quiet bool) (verdict, int64) {
	if !s.running {
		if s.head != nil {
			return begin, 0
		}
		return stay, 0
	}
	if s.head == nil {
		if quiet && s.streak >= eagerAfter && s.served > 0 && now >= s.retryAt {
			return park, 0
		}
		return stay, 0
	}
	limit := max(s.since, s.contended) + s.quantum()
	switch {
	case now >= limit:
		return breakIn, 0
	case now < s.retryAt:
		return stay, min(s.retryAt, limit)
	case quiet:
		if until := min(s.answeredAt+lingerTime, s.sliceEnd()); s.brief == 0 && s.served > shortTurn && now < until {
			return stay, until
		}
		return park, 0
	}
	return stay, limit
}

// sliceEnd is until when the running app may take requests while others wait.
func (s *schedule) sliceEnd() int64 {
	slice := int64(maxSlice)
	if s.brief == 0 {
		slice = bulkSlice
	}
	return max(s.since, s.contended) + slice
}

func (s *schedule) quantum() int64 {
	if s.cur.resume {
		return s.cur.grant
	}
	return maxQuantum
}

// begin gives the first in the queue its turn. The former one's instance must be dormant.
func (s *schedule) begin(now int64) *seat {
	x := s.head
	if s.head = x.next; s.head == nil {
		s.tail = nil
	}
	s.left(x)
	switch {
	case s.cur == x:
		s.streak = 0 // nobody came in between: it was parked for nothing
	case s.cur != nil && s.served <= shortTurn:
		s.streak++
	default:
		s.streak = 0
	}
	x.again = false
	s.cur, s.running, s.since, s.contended, s.served, s.retryAt = x, true, now, now, 0, 0
	return x
}

// answered counts a transaction of the running app.
func (s *schedule) answered(now int64) {
	s.answeredAt = now
	if s.served++; s.served > shortTurn {
		s.streak = 0
	}
}

// busy notes that the instance could not be parked.
func (s *schedule) busy(now int64) { s.retryAt = now + parkRetry }

// parked notes that the running instance is dormant now.
func (s *schedule) parked(now int64) {
	s.running = false
	s.cur.bulk = s.served > shortTurn
	if s.cur.again {
		s.want(s.cur, false, now)
	}
}

// resumed notes that x goes on running outside the queue: it was made dormant for the gate's own purposes and
// nobody else came meanwhile.
func (s *schedule) resumed(x *seat, now int64) {
	s.cur, s.running, s.since, s.served, s.retryAt = x, true, now, 0, 0
	x.resume = false
}
