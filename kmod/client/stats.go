package client

import (
	"fmt"
	"io"
	"math/bits"
	"runtime"
	"time"
	"unsafe"

	"corsa.dev/corsa/kmod/client/internal/uapi"
)

// HistKind says what a histogram is of.
type HistKind uint32

// The histograms, as in the header.
const (
	HistSwap     HistKind = iota // one thread's whole change of record
	HistSwapMM                   // of it the mm
	HistStop                     // copying the active record: stopping threads
	HistDup                      // duplicating memory
	HistActivate                 // Activate as a whole
)

var histNames = [uapi.HistCount]string{"swap of a thread", "of it the mm", "stop all threads", "duplicate memory", "activate"}

func (k HistKind) String() string {
	if int(k) < len(histNames) {
		return histNames[k]
	}
	return fmt.Sprintf("histogram %d", uint32(k))
}

// Histogram counts durations: bucket n those of at least 2^n ns and less than 2^(n+1).
type Histogram struct {
	Sum     time.Duration
	Buckets [uapi.HistBuckets]uint64
}

// Count is how many durations it has.
func (h *Histogram) Count() uint64 {
	var n uint64
	for _, b := range h.Buckets {
		n += b
	}
	return n
}

// Mean is exact; 0 without any.
func (h *Histogram) Mean() time.Duration {
	n := h.Count()
	if n == 0 {
		return 0
	}
	return h.Sum / time.Duration(n)
}

// Quantile is the upper bound of the bucket in which the q-quantile lies, 0 <= q <= 1; 0 without any.
func (h *Histogram) Quantile(q float64) time.Duration {
	left := uint64(q * float64(h.Count()))
	for i, b := range h.Buckets {
		if b > left {
			return 1 << (i + 1)
		}
		left -= b
	}
	if i := len(h.Buckets) - 1; h.Buckets[i] > 0 {
		return 1 << (i + 1)
	}
	for i := len(h.Buckets) - 1; i >= 0; i-- {
		if h.Buckets[i] > 0 {
			return 1 << (i + 1)
		}
	}
	return 0
}

// Minus is what h has counted since before.
func (h Histogram) Minus(before Histogram) Histogram {
	h.Sum -= before.Sum
	for i := range h.Buckets {
		h.Buckets[i] -= before.Buckets[i]
	}
	return h
}

// Stats are counters since the process was attached.
type Stats struct {
	Records, Threads int // now
	Copies           uint64
	Activations      uint64
	Swaps            uint64 // of single threads
	Restores         uint64
	Discards         uint64
	Crashes          uint64
	HiddenEINTR      uint64 // that the service was spared
	Timeouts         uint64
	ThreadsHeld      uint64 // calls of exit that were held for other records' sake
	Hist             [uapi.HistCount]Histogram
}

// Stats reads them.
func (s *Session) Stats() (*Stats, error) {
	a := new(uapi.Stats)
	a.Size = uint32(unsafe.Sizeof(*a))
	if err := s.ioctl(uapi.ReqStats, unsafe.Pointer(a), ""); err != nil {
		return nil, err
	}
	st := &Stats{
		Records: int(a.Records), Threads: int(a.Threads), Copies: a.Copies, Activations: a.Activations, Swaps: a.Swaps,
		Restores: a.Restores, Discards: a.Discards, Crashes: a.Crashes, HiddenEINTR: a.EINTRHidden, Timeouts: a.Timeouts,
		ThreadsHeld: a.ThreadsHeld,
	}
	for i := range st.Hist {
		st.Hist[i] = Histogram{time.Duration(a.SumNS[i]), a.Hist[i]}
	}
	return st, nil
}

// Print writes the statistics for people.
func (st *Stats) Print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "records %d, threads %d\ncopies %d, restores %d, discards %d, crashes %d\nactivations %d, swaps of threads %d, "+
		"timeouts %d\nEINTR hidden %d, exits held %d\n",
		st.Records, st.Threads, st.Copies, st.Restores, st.Discards, st.Crashes, st.Activations, st.Swaps, st.Timeouts,
		st.HiddenEINTR, st.ThreadsHeld)
	if err != nil {
		return err
	}
	for i := range st.Hist {
		h := &st.Hist[i]
		if h.Count() == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-18s n %d, mean %v, p50 < %v, p99 < %v\n", HistKind(i), h.Count(), h.Mean(), h.Quantile(0.5), h.Quantile(0.99)); err != nil {
			return err
		}
		if err := h.print(w); err != nil {
			return err
		}
	}
	return nil
}

// print draws the buckets from the first to the last that is not empty.
func (h *Histogram) print(w io.Writer) error {
	const width = 40
	first, last, most := -1, -1, uint64(1)
	for i, b := range h.Buckets {
		if b > 0 {
			if first < 0 {
				first = i
			}
			last, most = i, max(most, b)
		}
	}
	if first < 0 {
		return nil
	}
	for i := first; i <= last; i++ {
		bar := ""
		for range (h.Buckets[i]*width + most - 1) / most {
			bar += "#"
		}
		if _, err := fmt.Fprintf(w, "  %10v %8d %s\n", time.Duration(1)<<i, h.Buckets[i], bar); err != nil {
			return err
		}
	}
	return nil
}

// Observe counts d, as the module does; for tests and for histograms of one's own.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 1)
	h.Sum += d
	h.Buckets[min(bits.Len64(uint64(d))-1, uapi.HistBuckets-1)]++
}

// samplesKept is how many raw durations the module keeps.
const samplesKept = 65536

// StartSamples begins to record raw durations of a kind.
func (s *Session) StartSamples(kind HistKind) error {
	a := uapi.Samples{Flags: 1, Which: uint32(kind)}
	a.Size = uint32(unsafe.Sizeof(a))
	return s.ioctl(uapi.ReqSamples, unsafe.Pointer(&a), kind.String())
}

// Samples returns what has been recorded since StartSamples, or since the last call of it.
func (s *Session) Samples(kind HistKind) ([]time.Duration, error) {
	buf := make([]uint32, samplesKept)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&buf[0])
	a := uapi.Samples{Which: uint32(kind), Cap: samplesKept, NS: uint64(uintptr(unsafe.Pointer(&buf[0])))}
	a.Size = uint32(unsafe.Sizeof(a))
	if err := s.ioctl(uapi.ReqSamples, unsafe.Pointer(&a), kind.String()); err != nil {
		return nil, err
	}
	out := make([]time.Duration, a.Count)
	for i := range out {
		out[i] = time.Duration(buf[i])
	}
	return out, nil
}
