package broker

import (
	"time"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/runtime/instance"
)

// stallLook is how often apps are looked at for transactions that do not come to an end. Such a one is reported after two looks
// at most: a service may take that long, so that it is not an error, but nobody shall have to guess what others wait for.
const stallLook = 10 * time.Second

// progress is what an app had come to when it was looked at last.
type progress struct {
	transactions uint64
	busy         bool
	reported     bool
}

// watchStalls reports apps that get nowhere until the broker ends.
func (b *Broker) watchStalls() {
	tick := time.NewTicker(stallLook)
	defer tick.Stop()
	seen := map[instance.App]progress{}
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
			seen = b.stalls(seen)
		}
	}
}

// stalls reports, once each, the apps that have been busy since the last look and have come to the end of no transaction.
func (b *Broker) stalls(seen map[instance.App]progress) map[instance.App]progress {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := make(map[instance.App]progress, len(b.apps))
	for key, a := range b.apps {
		last := seen[key]
		p := progress{transactions: a.transactions, busy: a.users > 0 || a.exclusive || a.wanted > 0}
		if p.busy && last.busy && p.transactions == last.transactions {
			if p.reported = true; !last.reported {
				b.logApp(a).WithFields(a.standing()).Warn("no transaction of the app has come to an end for a while")
			}
		} else if last.reported {
			b.logApp(a).Info("the app's transactions come to an end again")
		}
		now[key] = p
	}
	return now
}

// standing is what a's transactions may be waiting for. Broker.mu is held.
func (a *app) standing() logrus.Fields {
	f := logrus.Fields{
		"transactions": a.users, "alone": a.exclusive, "capturing": a.capturing, "switching": a.lane.switching,
		"under-way": a.lane.under, "queued": len(a.lane.queue), "turn": "nobody's",
	}
	if a.lane.now != nil {
		f["turn"] = string(a.lane.now.key)
	}
	if a.inst != nil {
		f["instance"], f["dormant"] = a.inst.PID(), a.inst.Dormant()
	}
	return f
}
