package service

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"corsa.dev/corsa/runtime/engine"
)

// metrics are what /metrics shows. Counters of apps come from the gate when they are asked for, so that counting costs
// the transaction path nothing more.
type metrics struct {
	registry    *prometheus.Registry
	checkpoints *prometheus.CounterVec
	restores    *prometheus.CounterVec
	crashes     *prometheus.CounterVec
	discards    prometheus.Counter
	evictions   *prometheus.CounterVec
	capture     *prometheus.HistogramVec
	restore     prometheus.Histogram
}

func newMetrics(m *Monitor) *metrics {
	name := func(s string) string { return "corsa_" + s }
	counter := func(n, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name(n), Help: help}, labels)
	}
	// From 20 µs to 10 s: a small service's checkpoint to the restore of one with gigabytes.
	durations := prometheus.ExponentialBuckets(20e-6, 2, 20)
	x := &metrics{
		registry:    prometheus.NewRegistry(),
		checkpoints: counter("checkpoints_total", "Checkpoints taken, by what triggered them.", "trigger"),
		restores:    counter("restores_total", "Instances branched from a checkpoint or the base, by reason.", "reason"),
		crashes:     counter("crashes_total", "Instances that died.", "app"),
		discards:    prometheus.NewCounter(prometheus.CounterOpts{Name: name("checkpoints_discarded_total"), Help: "Checkpoints discarded for lack of budget."}),
		evictions:   counter("evictions_total", "What was ended to keep to memory-budget and instances: an app's instance, a checkpoint, or all spares.", "of"),
		capture: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name("checkpoint_duration_seconds"), Help: "Duration of a checkpoint, by phase.", Buckets: durations,
		}, []string{"phase"}),
		restore: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name("restore_duration_seconds"), Help: "Duration of branching an instance.", Buckets: durations,
		}),
	}
	x.registry.MustRegister(x.checkpoints, x.restores, x.crashes, x.discards, x.evictions, x.capture, x.restore, &appCollector{m: m})
	return x
}

func (x *metrics) tookCheckpoint(trigger string, t engine.Timing) {
	x.checkpoints.WithLabelValues(trigger).Inc()
	x.capture.WithLabelValues("capture").Observe(t.Capture.Seconds())
	x.capture.WithLabelValues("fork").Observe(t.Fork.Seconds())
	x.capture.WithLabelValues("pause").Observe(t.Paused().Seconds())
	x.capture.WithLabelValues("total").Observe(t.Total.Seconds())
}

func (x *metrics) branched(reason string, d time.Duration) {
	x.restores.WithLabelValues(reason).Inc()
	x.restore.Observe(d.Seconds())
}

// appCollector reads the apps' counters from the monitor and the gate.
type appCollector struct{ m *Monitor }

func describeApp(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("corsa_"+name, help, []string{"app"}, nil)
}

var (
	descTransactions = describeApp("transactions_total", "Requests answered.")
	descSwitches     = describeApp("switches_total", "Activations of the app's instance after another app's.")
	descBytesIn      = describeApp("bytes_in_total", "Bytes from the app.")
	descBytesOut     = describeApp("bytes_out_total", "Bytes to the app.")
	descWaiting      = describeApp("waiting_seconds_total", "Time that the app's requests waited for their turn.")
	descConnections  = describeApp("connections", "Open connections of the app.")
	descHistory      = describeApp("history_checkpoints", "Checkpoints kept for the app.")
	descMemory       = prometheus.NewDesc("corsa_instance_memory_bytes", "Memory of the app's instance: unique or shared; and files: disk space of its private files.", []string{"app", "kind"}, nil)
	descSpares       = prometheus.NewDesc("corsa_spares", "Instances ready for new apps (base) and for apps' crashes and restores (apps).", []string{"of"}, nil)
	descSparesTaken  = prometheus.NewDesc("corsa_spares_taken_total", "Instances that were ready when they were needed.", nil, nil)
	descMemoryUsed   = prometheus.NewDesc("corsa_memory_used_bytes", "What the service holds with all its instances and checkpoints, without cached files; only with a memory-budget.", nil, nil)
	descMemoryBudget = prometheus.NewDesc("corsa_memory_budget_bytes", "What it may hold before apps are evicted.", nil, nil)
	descInstances    = prometheus.NewDesc("corsa_instances", "Apps by the state of their instance.", []string{"state"}, nil)
)

// What the Binder gate counts for all apps together.
var (
	descBinderTransactions = prometheus.NewDesc("corsa_binder_transactions_total", "Binder transactions from outside.", nil, nil)
	descBinderSwitches     = prometheus.NewDesc("corsa_binder_switches_total", "Changes of the active instance for a Binder transaction.", nil, nil)
	descBinderFailures     = prometheus.NewDesc("corsa_binder_failures_total", "Binder transactions that failed at the gate.", []string{"reason"}, nil)
	descBinderWaiting      = prometheus.NewDesc("corsa_binder_waiting_seconds_total", "Time that Binder transactions waited for their turn.", nil, nil)
	descBinderInProgress   = prometheus.NewDesc("corsa_binder_in_progress", "Binder transactions in progress.", nil, nil)
)

func (c *appCollector) collectBinder(ch chan<- prometheus.Metric) {
	s, err := c.m.binderStats()
	if err != nil {
		return // another gate, or the service has ended
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	count(descBinderTransactions, float64(s.Transactions))
	count(descBinderSwitches, float64(s.Switches))
	count(descBinderFailures, float64(s.Timeouts), "timeout")
	count(descBinderFailures, float64(s.Interrupted), "interrupted")
	count(descBinderFailures, float64(s.Aborted), "crash")
	count(descBinderWaiting, s.Waited.Seconds())
	ch <- prometheus.MustNewConstMetric(descBinderInProgress, prometheus.GaugeValue, float64(s.InProgress))
}

// Describe implements prometheus.Collector.
func (c *appCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descTransactions, descSwitches, descBytesIn, descBytesOut, descWaiting, descConnections, descHistory, descMemory, descInstances,
		descSpares, descSparesTaken, descMemoryUsed, descMemoryBudget,
		descBinderTransactions, descBinderSwitches, descBinderFailures, descBinderWaiting, descBinderInProgress,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *appCollector) Collect(ch chan<- prometheus.Metric) {
	states := map[string]int{}
	for _, a := range c.m.viewApps() {
		app := string(a.App)
		count := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, app)
		}
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
		}
		count(descTransactions, float64(a.Transactions))
		count(descSwitches, float64(a.Switches))
		count(descBytesIn, float64(a.BytesIn))
		count(descBytesOut, float64(a.BytesOut))
		count(descWaiting, a.WaitingSeconds)
		gauge(descConnections, float64(a.Connections), app)
		gauge(descHistory, float64(a.Checkpoints), app)
		if a.Memory != nil {
			gauge(descMemory, float64(a.Memory.Unique), app, "unique")
			gauge(descMemory, float64(a.Memory.Shared), app, "shared")
			if a.Memory.Files > 0 {
				gauge(descMemory, float64(a.Memory.Files), app, "files")
			}
		}
		states[a.State]++
	}
	spares := c.m.spares.count()
	ch <- prometheus.MustNewConstMetric(descSpares, prometheus.GaugeValue, float64(spares.Base), "base")
	ch <- prometheus.MustNewConstMetric(descSpares, prometheus.GaugeValue, float64(spares.Apps), "apps")
	ch <- prometheus.MustNewConstMetric(descSparesTaken, prometheus.CounterValue, float64(spares.Taken))
	if b := c.m.budget; b != nil && b.memory > 0 {
		ch <- prometheus.MustNewConstMetric(descMemoryUsed, prometheus.GaugeValue, float64(b.used.Load()))
		ch <- prometheus.MustNewConstMetric(descMemoryBudget, prometheus.GaugeValue, float64(b.memory))
	}
	c.collectBinder(ch)
	for state, n := range states {
		ch <- prometheus.MustNewConstMetric(descInstances, prometheus.GaugeValue, float64(n), state)
	}
}
