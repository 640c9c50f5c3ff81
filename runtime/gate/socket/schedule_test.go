package socket

import (
	"math/rand"
	"slices"
	"testing"
)

// naive is the schedule as one would write it without a thought of speed: a slice of waiting names.
type naive struct {
	queue   []int
	running int // -1: nobody
	again   map[int]bool
}

func (m *naive) want(x int) {
	switch {
	case m.running == x:
		m.again[x] = true
	case !slices.Contains(m.queue, x):
		m.queue = append(m.queue, x)
	}
}

func (m *naive) parked() {
	x := m.running
	m.running = -1
	if m.again[x] {
		m.want(x)
	}
}

func (m *naive) begin() int {
	m.running, m.queue = m.queue[0], m.queue[1:]
	delete(m.again, m.running)
	return m.running
}

func TestScheduleAgainstNaiveModel(t *testing.T) {
	for seed := range int64(200) {
		rnd := rand.New(rand.NewSource(seed))
		s := &schedule{}
		seats := make([]*seat, 5)
		for i := range seats {
			seats[i] = &seat{grant: firstGrant}
		}
		m := &naive{running: -1, again: map[int]bool{}}
		waitingSince := map[int]int64{}
		now := int64(1)
		for op := range 2000 {
			now += rnd.Int63n(2_000_000)
			switch x := rnd.Intn(len(seats)); rnd.Intn(4) {
			case 0, 1:
				s.want(seats[x], false, now)
				m.want(x)
			case 2:
				s.drop(seats[x])
				m.queue = slices.DeleteFunc(m.queue, func(y int) bool { return y == x })
			case 3:
				if s.running {
					s.answered(now)
				}
			}
			brief := 0
			for _, x := range seats {
				if x.queued && !x.bulk {
					brief++
				}
			}
			if brief != s.brief {
				t.Fatalf("seed %d, step %d: %d of those who wait had few requests, counted %d", seed, op, brief, s.brief)
			}
			for i := range seats {
				if seats[i].queued != slices.Contains(m.queue, i) {
					t.Fatalf("seed %d, step %d: seat %d queued: %v, model: %v", seed, op, i, seats[i].queued, m.queue)
				}
				if !seats[i].queued {
					delete(waitingSince, i)
				} else if waitingSince[i] == 0 {
					waitingSince[i] = now
				}
				if s.admits(seats[i], now) && m.running != i {
					t.Fatalf("seed %d, step %d: %d is admitted while %d runs", seed, op, i, m.running)
				}
			}
			v, at := s.step(now, rnd.Intn(3) == 0)
			switch v {
			case begin:
				if m.running != -1 {
					t.Fatalf("seed %d, step %d: a second instance would run", seed, op)
				}
				want := m.begin()
				if got := slices.Index(seats, s.begin(now)); got != want {
					t.Fatalf("seed %d, step %d: turn of %d, first come is %d", seed, op, got, want)
				}
			case park, breakIn:
				if len(m.queue) == 0 && v == breakIn {
					t.Fatalf("seed %d, step %d: broken into although nobody waits", seed, op)
				}
				if v == park && rnd.Intn(4) == 0 {
					s.busy(now)
					break
				}
				s.parked(now)
				m.parked()
			case stay:
				if len(m.queue) > 0 && at == 0 {
					t.Fatalf("seed %d, step %d: somebody waits and nothing would wake the loop", seed, op)
				}
			}
			// Nobody waits longer than a quantum for each turn before his, plus the steps of this test.
			for i, since := range waitingSince {
				if now-since > int64(len(seats))*(maxQuantum+10_000_000)*2 {
					t.Fatalf("seed %d, step %d: %d starves", seed, op, i)
				}
			}
		}
	}
}

func TestScheduleLeavesALoneAppAlone(t *testing.T) {
	s, x := &schedule{}, &seat{}
	s.want(x, false, 1)
	s.begin(1)
	for now := int64(2); now < 10_000; now++ {
		s.answered(now)
		if v, at := s.step(now, true); v != stay || at != 0 {
			t.Fatalf("verdict %v until %d", v, at)
		}
	}
}

// Apps with many requests have long turns among themselves; one with few waits no longer for that.
func TestScheduleGivesBulkLongTurns(t *testing.T) {
	s := &schedule{}
	x, y, z := &seat{}, &seat{}, &seat{}
	// turn has the running app ask three things at a time until its turn ends.
	turn := func(now int64) (took, end int64) {
		begun := now
		for s.admits(s.cur, now) {
			for range 3 {
				s.answered(now)
			}
			now += 10_000
			if v, _ := s.step(now, true); v == park {
				break
			}
		}
		s.want(s.cur, false, now)
		s.parked(now)
		return now - begun, now
	}
	s.want(x, false, 1)
	s.want(y, false, 1)
	s.begin(1)
	took, now := turn(1) // y waits, of which nothing is known
	if took > 10_000 {
		t.Errorf("an app that nothing is known of waited for %d ns", took)
	}
	s.begin(now)
	if took, now = turn(now); took < bulkSlice {
		t.Errorf("a turn among apps with many requests ended after %d ns", took)
	}
	s.begin(now)
	s.answered(now)
	s.answered(now)
	s.answered(now)
	if v, at := s.step(now+1, true); v != stay || at > now+lingerTime {
		t.Errorf("verdict %v until %d: it should wait for its next requests, from %d on", v, at, now)
	}
	s.want(z, false, now+1)
	if v, _ := s.step(now+2, true); v != park {
		t.Errorf("verdict %v although one with few requests waits", v)
	}
}

func TestScheduleParksEarlyWhenAppsAlternate(t *testing.T) {
	s := &schedule{}
	x, y := &seat{}, &seat{}
	early := 0
	for now := int64(1); now < 40; now++ {
		z := x
		if now%2 == 0 {
			z = y
		}
		s.want(z, false, now)
		if v, _ := s.step(now, true); v == park {
			s.parked(now)
		}
		s.begin(now)
		s.answered(now)
		if v, _ := s.step(now, true); v == park {
			early++
			s.parked(now)
		}
	}
	if early < 30 {
		t.Errorf("parked early %d times of 39", early)
	}
	for now := int64(40); now < 43; now++ { // now one talks alone
		s.want(x, false, now)
		if !s.running {
			s.begin(now)
		}
		s.answered(now)
		if v, _ := s.step(now, true); v == park {
			s.parked(now)
		}
	}
	if !s.running {
		t.Error("an app that talks alone is still parked after each transaction")
	}
}

func TestClockwork(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	w := &clockwork{}
	of := make([]alarms, 20)
	model := map[[2]int]int64{}
	for now := int64(1); now < 5000; now++ {
		i, k, at := rnd.Intn(len(of)), rnd.Intn(int(alarmKinds)), now+rnd.Int63n(100)
		w.set(&of[i], alarmKind(k), at)
		if old, ok := model[[2]int{i, k}]; !ok || at < old {
			model[[2]int{i, k}] = at
		}
		for {
			o, kind, ok := w.due(now)
			if !ok {
				break
			}
			key := [2]int{-1, int(kind)}
			for j := range of {
				if o == &of[j] {
					key[0] = j
				}
			}
			if model[key] > now || model[key] == 0 {
				t.Fatalf("alarm %v rings at %d, set for %d", key, now, model[key])
			}
			delete(model, key)
		}
		for key, at := range model {
			if at <= now {
				t.Fatalf("alarm %v of %d did not ring", key, at)
			}
		}
	}
}
