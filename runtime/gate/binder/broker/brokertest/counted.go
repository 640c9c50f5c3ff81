package brokertest

import (
	"sync"
	"time"

	"corsa.dev/corsa/runtime/engine"
)

// gauge counts the instances that are active. Looking at one after the other would count an instance that is parked and the
// one that takes its turn as active at once.
type gauge struct {
	mu        sync.Mutex
	now, peak int
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.peak = max(g.peak, g.now)
}

func (g *gauge) most() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.peak
}

// of returns in as one whose activity is counted.
func (g *gauge) of(in engine.Instance) *counted {
	c := &counted{Instance: in, gauge: g}
	c.note()
	return c
}

// counted is an instance whose activity is counted, from before it is activated until after it is parked.
type counted struct {
	engine.Instance
	gauge *gauge

	mu sync.Mutex
	on bool // counted as active
}

var _ engine.BrokeredInstance = (*counted)(nil)

func (c *counted) set(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case on && !c.on:
		c.gauge.add(1)
	case !on && c.on:
		c.gauge.add(-1)
	}
	c.on = on
}

// note counts the instance as what it says that it is.
func (c *counted) note() { c.set(!c.Dormant()) }

func (c *counted) Activate() error {
	c.set(true)
	defer c.note()
	return c.Instance.Activate()
}

func (c *counted) Park(limit time.Duration) error {
	defer c.note()
	return c.Instance.Park(limit)
}

func (c *counted) Kill() error {
	defer c.set(false)
	return c.Instance.Kill()
}

func (c *counted) brokered() engine.BrokeredInstance {
	p, _ := c.Instance.(engine.BrokeredInstance)
	return p
}

func (c *counted) BrokerToken() engine.BrokerToken {
	if p := c.brokered(); p != nil {
		return p.BrokerToken()
	}
	return engine.BrokerToken{}
}

func (c *counted) BrokerPID() int            { return c.brokered().BrokerPID() }
func (c *counted) BrokerIdle() (bool, error) { return c.brokered().BrokerIdle() }
