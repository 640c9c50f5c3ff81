package prometheus

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// extra are constant metrics, in no order.
type extra struct{}

var extraLabels = [][]string{{"z", "1"}, {"a\"b\\c\nd", "2"}, {"", "3"}}

func (extra) Collect(ch chan<- Metric) {
	d := NewDesc("x_const", "A help with \\ and\nlines.", []string{"who", "kind"}, nil)
	for i, l := range extraLabels {
		ch <- MustNewConstMetric(d, GaugeValue, float64(i)*1e21, l...)
	}
	ch <- MustNewConstMetric(NewDesc("x_alone", "Alone.", nil, nil), CounterValue, 0.000123)
}

type clientExtra struct{}

func (clientExtra) Describe(ch chan<- *client.Desc) { client.DescribeByCollect(clientExtra{}, ch) }
func (clientExtra) Collect(ch chan<- client.Metric) {
	d := client.NewDesc("x_const", "A help with \\ and\nlines.", []string{"who", "kind"}, nil)
	for i, l := range extraLabels {
		ch <- client.MustNewConstMetric(d, client.GaugeValue, float64(i)*1e21, l...)
	}
	ch <- client.MustNewConstMetric(client.NewDesc("x_alone", "Alone.", nil, nil), client.CounterValue, 0.000123)
}

// The text is that of Prometheus's own library, to the letter.
func TestTextIsTheLibrarys(t *testing.T) {
	ours, theirs := NewRegistry(), client.NewRegistry()
	buckets := ExponentialBuckets(20e-6, 2, 20)
	c := NewCounterVec(CounterOpts{Name: "b_total", Help: "B."}, []string{"app"})
	h := NewHistogramVec(HistogramOpts{Name: "a_seconds", Help: "A.", Buckets: buckets}, []string{"phase"})
	n, p := NewCounter(CounterOpts{Name: "c_total", Help: "C."}), NewHistogram(HistogramOpts{Name: "d_seconds", Help: "D.", Buckets: buckets[:3]})
	empty := NewCounterVec(CounterOpts{Name: "empty_total", Help: "None."}, []string{"app"})
	ours.MustRegister(extra{}, p, c, h, n, empty)

	cc := client.NewCounterVec(client.CounterOpts{Name: "b_total", Help: "B."}, []string{"app"})
	ch := client.NewHistogramVec(client.HistogramOpts{Name: "a_seconds", Help: "A.", Buckets: client.ExponentialBuckets(20e-6, 2, 20)}, []string{"phase"})
	cn, cp := client.NewCounter(client.CounterOpts{Name: "c_total", Help: "C."}), client.NewHistogram(client.HistogramOpts{Name: "d_seconds", Help: "D.", Buckets: buckets[:3]})
	ce := client.NewCounterVec(client.CounterOpts{Name: "empty_total", Help: "None."}, []string{"app"})
	theirs.MustRegister(clientExtra{}, cp, cc, ch, cn, ce)

	for i, app := range []string{"uid:2", "uid:10", "uid:1", "gone"} {
		c.WithLabelValues(app).Add(float64(i) + 0.5)
		cc.WithLabelValues(app).Add(float64(i) + 0.5)
	}
	c.WithLabelValues("uid:1").Inc()
	cc.WithLabelValues("uid:1").Inc()
	if !c.DeleteLabelValues("gone") || c.DeleteLabelValues("never") || !cc.DeleteLabelValues("gone") {
		t.Error("deletion of labels")
	}
	n.Inc()
	cn.Inc()
	for i, v := range []float64{0, 20e-6, 40e-6, 41e-6, 0.3, 100, buckets[19]} {
		phase := []string{"fork", "total"}[i%2]
		h.WithLabelValues(phase).Observe(v)
		ch.WithLabelValues(phase).Observe(v)
		p.Observe(v)
		cp.Observe(v)
	}
	var have strings.Builder
	if err := ours.Write(&have); err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(theirs, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	want := answer.Body.String()
	if have.String() != want {
		a, b := strings.Split(have.String(), "\n"), strings.Split(want, "\n")
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Fatalf("line %d: %q, the library writes %q", i+1, a[i], b[i])
			}
		}
		t.Fatalf("%d lines, the library writes %d", len(a), len(b))
	}
	if have := answer.Header().Get("Content-Type"); !strings.HasPrefix(have, ContentType) {
		t.Errorf("content type %q, the library's is %q", ContentType, have)
	}
}

func TestConcurrentUse(t *testing.T) {
	c := NewCounterVec(CounterOpts{Name: "n", Help: "N."}, []string{"l"})
	r := NewRegistry()
	r.MustRegister(c)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				c.WithLabelValues("x").Inc()
			}
			var b strings.Builder
			if err := r.Write(&b); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var b strings.Builder
	if err := r.Write(&b); err != nil || !strings.Contains(b.String(), `n{l="x"} 8000`) {
		t.Errorf("%q, %v", b.String(), err)
	}
}

func TestMistakesPanic(t *testing.T) {
	for name, f := range map[string]func(){
		"labels":   func() { MustNewConstMetric(NewDesc("x", "", []string{"a"}, nil), GaugeValue, 1) },
		"decrease": func() { NewCounter(CounterOpts{Name: "x"}).Add(-1) },
		"constant": func() { NewDesc("x", "", nil, map[string]string{"a": "b"}) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		})
	}
}
