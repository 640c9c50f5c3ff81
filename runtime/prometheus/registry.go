// Package prometheus keeps counters and histograms and writes them in Prometheus's text format, version 0.0.4. It is the small part of
// the client library that corsa needs, with the names of that: to have the library in a program makes each process of it start slower, and
// a container's start is two processes.
//
// All of it may be used from any goroutine. What cannot be a metric, such as a wrong number of labels, is a mistake of the caller and
// panics.
package prometheus

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// ContentType is that of what Registry.Write writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// ValueType says what a constant metric is.
type ValueType string

// The types of constant metrics.
const (
	CounterValue ValueType = "counter"
	GaugeValue   ValueType = "gauge"
)

// Desc describes a family of metrics.
type Desc struct {
	name, help string
	labels     []string
}

// NewDesc describes a family whose metrics differ in the values of labels. constant labels are not supported: nil.
func NewDesc(name, help string, labels []string, constant map[string]string) *Desc {
	if len(constant) > 0 {
		panic("prometheus: " + name + ": constant labels are not supported")
	}
	return &Desc{name, help, labels}
}

// Metric is one or, of a histogram, several lines of the text.
type Metric struct {
	desc  *Desc
	typ   string
	key   string // labels, for the order
	lines []line
}

type line struct {
	suffix string // behind the name: _bucket, _sum, _count
	labels string // as they are written, "" or {a="b"}
	value  float64
}

// MustNewConstMetric is one value, with the values of desc's labels.
func MustNewConstMetric(desc *Desc, typ ValueType, value float64, labels ...string) Metric {
	text := desc.render(labels)
	return Metric{desc: desc, typ: string(typ), key: text, lines: []line{{labels: braced(text), value: value}}}
}

// Collector is asked for its metrics each time.
type Collector interface{ Collect(ch chan<- Metric) }

// Registry knows what is to be written.
type Registry struct {
	mu         sync.Mutex
	collectors []Collector
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{} }

// MustRegister adds collectors.
func (r *Registry) MustRegister(list ...Collector) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collectors = append(r.collectors, list...)
}

// Write writes all metrics, families and the metrics in each in order.
func (r *Registry) Write(w io.Writer) error {
	families := map[string][]Metric{}
	for _, m := range r.gather() {
		families[m.desc.name] = append(families[m.desc.name], m)
	}
	names := make([]string, 0, len(families))
	for name := range families {
		names = append(names, name)
	}
	slices.Sort(names)
	b := bufio.NewWriter(w)
	for _, name := range names {
		list := families[name]
		slices.SortStableFunc(list, func(x, y Metric) int { return strings.Compare(x.key, y.key) })
		help := strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(list[0].desc.help)
		fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, list[0].typ)
		for _, m := range list {
			for _, l := range m.lines {
				fmt.Fprintf(b, "%s%s%s %s\n", name, l.suffix, l.labels, number(l.value))
			}
		}
	}
	return b.Flush()
}

func (r *Registry) gather() []Metric {
	r.mu.Lock()
	collectors := slices.Clone(r.collectors)
	r.mu.Unlock()
	ch := make(chan Metric)
	go func() {
		defer close(ch)
		for _, c := range collectors {
			c.Collect(ch)
		}
	}()
	var all []Metric
	for m := range ch {
		all = append(all, m)
	}
	return all
}

// render writes labels without braces, in the order of their names.
func (d *Desc) render(values []string) string {
	if len(values) != len(d.labels) {
		panic(fmt.Sprintf("prometheus: %s: %d values for the labels %v", d.name, len(values), d.labels))
	}
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	pairs := make([]string, len(values))
	for i, v := range values {
		pairs[i] = d.labels[i] + `="` + escape.Replace(v) + `"`
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

func braced(labels string) string {
	if labels == "" {
		return ""
	}
	return "{" + labels + "}"
}

// number also writes +Inf, -Inf and NaN as Prometheus does.
func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
