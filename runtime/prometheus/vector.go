package prometheus

import (
	"math"
	"sort"
	"sync"
)

// CounterOpts describe a counter.
type CounterOpts struct{ Name, Help string }

// Counter only grows.
type Counter struct {
	desc  *Desc
	key   string
	mu    sync.Mutex
	value float64
}

// NewCounter returns a counter without labels, at 0.
func NewCounter(o CounterOpts) *Counter { return &Counter{desc: &Desc{name: o.Name, help: o.Help}} }

// Inc adds 1.
func (c *Counter) Inc() { c.Add(1) }

// Add adds v, which must not be negative.
func (c *Counter) Add(v float64) {
	if v < 0 {
		panic("prometheus: " + c.desc.name + ": a counter cannot decrease")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value += v
}

// Collect implements Collector.
func (c *Counter) Collect(ch chan<- Metric) {
	c.mu.Lock()
	value := c.value
	c.mu.Unlock()
	ch <- Metric{desc: c.desc, typ: string(CounterValue), key: c.key, lines: []line{{labels: braced(c.key), value: value}}}
}

// vector has a member for each combination of labels' values that was asked for.
type vector[T Collector] struct {
	desc    *Desc
	make    func(key string) T
	mu      sync.Mutex
	members map[string]T
}

func newVector[T Collector](desc *Desc, maker func(key string) T) vector[T] {
	return vector[T]{desc: desc, make: maker, members: map[string]T{}}
}

// WithLabelValues returns the member with these values, made if it is the first time.
func (v *vector[T]) WithLabelValues(values ...string) T {
	key := v.desc.render(values)
	v.mu.Lock()
	defer v.mu.Unlock()
	m, ok := v.members[key]
	if !ok {
		m = v.make(key)
		v.members[key] = m
	}
	return m
}

// DeleteLabelValues forgets the member with these values, and reports whether there was one.
func (v *vector[T]) DeleteLabelValues(values ...string) bool {
	key := v.desc.render(values)
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.members[key]
	delete(v.members, key)
	return ok
}

// Collect implements Collector.
func (v *vector[T]) Collect(ch chan<- Metric) {
	v.mu.Lock()
	members := make([]T, 0, len(v.members))
	for _, m := range v.members {
		members = append(members, m)
	}
	v.mu.Unlock()
	for _, m := range members {
		m.Collect(ch)
	}
}

// CounterVec are counters that differ in the values of labels.
type CounterVec struct{ vector[*Counter] }

// NewCounterVec returns counters with these labels; there is none yet.
func NewCounterVec(o CounterOpts, labels []string) *CounterVec {
	desc := &Desc{o.Name, o.Help, labels}
	return &CounterVec{newVector(desc, func(key string) *Counter { return &Counter{desc: desc, key: key} })}
}

// HistogramOpts describe a histogram. Buckets are the upper bounds, in ascending order; the last one, infinite, is added.
type HistogramOpts struct {
	Name, Help string
	Buckets    []float64
}

// Histogram counts observations by their size.
type Histogram struct {
	desc    *Desc
	key     string
	buckets []float64
	mu      sync.Mutex
	counts  []uint64 // of each bucket alone, the infinite one too
	sum     float64
}

// NewHistogram returns a histogram without labels.
func NewHistogram(o HistogramOpts) *Histogram {
	return newHistogram(&Desc{name: o.Name, help: o.Help}, "", o.Buckets)
}

func newHistogram(desc *Desc, key string, buckets []float64) *Histogram {
	return &Histogram{desc: desc, key: key, buckets: buckets, counts: make([]uint64, len(buckets)+1)}
}

// Observe counts v.
func (h *Histogram) Observe(v float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[sort.SearchFloat64s(h.buckets, v)]++ // a bucket includes its bound
	h.sum += v
}

// Collect implements Collector.
func (h *Histogram) Collect(ch chan<- Metric) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := Metric{desc: h.desc, typ: "histogram", key: h.key}
	prefix := h.key
	if prefix != "" {
		prefix += ","
	}
	var total uint64
	for i, n := range h.counts {
		bound := math.Inf(1)
		if i < len(h.buckets) {
			bound = h.buckets[i]
		}
		total += n
		m.lines = append(m.lines, line{"_bucket", braced(prefix + `le="` + number(bound) + `"`), float64(total)})
	}
	m.lines = append(m.lines, line{"_sum", braced(h.key), h.sum}, line{"_count", braced(h.key), float64(total)})
	ch <- m
}

// HistogramVec are histograms that differ in the values of labels.
type HistogramVec struct{ vector[*Histogram] }

// NewHistogramVec returns histograms with these labels; there is none yet.
func NewHistogramVec(o HistogramOpts, labels []string) *HistogramVec {
	desc := &Desc{o.Name, o.Help, labels}
	return &HistogramVec{newVector(desc, func(key string) *Histogram { return newHistogram(desc, key, o.Buckets) })}
}

// ExponentialBuckets returns n bounds, the first one start and each further one factor times the one before.
func ExponentialBuckets(start, factor float64, n int) []float64 {
	list := make([]float64, n)
	for i := range list {
		list[i] = start
		start *= factor
	}
	return list
}
