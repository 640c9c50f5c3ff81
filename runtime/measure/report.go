// Package measure runs the feasibility study of a service with private instances on this machine: what a switch, a
// checkpoint and a restore cost, against what the kernel's own primitives cost in the same run.
package measure

import (
	"slices"
	"time"
)

// Report is what one run found.
type Report struct {
	Host   Host     `json:"host"`
	Began  string   `json:"began"`          // RFC 3339
	Took   float64  `json:"took"`           // seconds
	Quick  bool     `json:"quick"`          // fewer services and shorter loops
	Rows   []Row    `json:"rows"`           // in the order in which they were measured
	Absent []string `json:"absent"`         // what could not be measured here, and why
	Method []string `json:"method"`         // how the rows came about
	Wide   int      `json:"apps,omitempty"` // most apps at once
}

// Row is one quantity of one service.
type Row struct {
	Name     string          `json:"name"`
	Engine   string          `json:"engine,omitempty"` // none: a property of the machine
	Service  string          `json:"service,omitempty"`
	CPU      string          `json:"cpu"` // PinnedCPU or AnyCPU
	Value    Dist            `json:"value"`
	Parts    map[string]Dist `json:"parts,omitempty"` // what Value was made of
	Baseline *Baseline       `json:"baseline,omitempty"`
	Relation string          `json:"relation,omitempty"`       // "ratio" or "excess": what Result is
	Result   float64         `json:"result,omitempty"`         // of the p50: a ratio, or an excess in Value's unit
	Target   float64         `json:"target,omitempty"`         // the most that Result, or without one the p50, should be; 0: none
	Met      bool            `json:"met,omitempty"`            // only where there is a target
	Faster   float64         `json:"fasterThanCRIU,omitempty"` // how many times, for the same program as a process of the host
	Note     string          `json:"note,omitempty"`
}

// Baseline is what a row is compared with, measured in the same run.
type Baseline struct {
	Name  string `json:"name"`
	Value Dist   `json:"value"`
}

// Where the parties of a measurement run.
const (
	PinnedCPU = "one" // client and service on one CPU
	AnyCPU    = "any" // wherever the kernel puts them
)

// Dist describes a sample.
type Dist struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	Min  float64 `json:"min"`
	N    int     `json:"n"`
	Unit string  `json:"unit"` // "µs" or "KiB"
}

// describe sorts s, which may not be empty.
func describe(s []time.Duration) Dist {
	slices.Sort(s)
	return Dist{P50: us(s[len(s)/2]), P99: us(s[len(s)*99/100]), Min: us(s[0]), N: len(s), Unit: "µs"}
}

// minus says how far d is above the ordinary value of e. The tail of e says nothing about that of d.
func (d Dist) minus(e Dist) Dist {
	return Dist{P50: d.P50 - e.P50, P99: d.P99 - e.P50, Min: d.Min - e.Min, N: min(d.N, e.N), Unit: d.Unit}
}

// ratio compares with b: target is how many times b's p50 is good.
func (r Row) ratio(name string, b Dist, target float64) Row {
	r.Baseline, r.Relation, r.Result = &Baseline{name, b}, "ratio", r.Value.P50/b.P50
	return r.aim(target, r.Result)
}

// excess compares with b: target is how many µs above b's p50 are good.
func (r Row) excess(name string, b Dist, target float64) Row {
	r.Baseline, r.Relation, r.Result = &Baseline{name, b}, "excess", r.Value.P50-b.P50
	return r.aim(target, r.Result)
}

func (r Row) aim(target, result float64) Row {
	r.Target = target
	r.Met = target > 0 && result <= target
	return r
}

// The targets, at p50.
const (
	targetSwitch      = 2.5  // of a pipe ping-pong; one thread, pinned
	targetPause       = 60   // µs above fork(); one thread
	targetPauseMany   = 250  // µs above fork(); eight threads
	targetPauseHuge   = 800  // µs; 512 MiB in huge pages
	targetWritten     = 1600 // the same with 13 MiB written
	targetGet         = 1.6  // of a GET without corsa
	targetDirect      = 1.03 // the same, on a direct path
	targetRestore     = 5000 // µs
	targetSpare       = 50   // µs, of the switch
	targetSwap        = 0.25 // of a one-way pipe switch
	threadsOfThreaded = 8
)

func methods() []string {
	return []string{
		"All times are in µs, from the monotonic clock of one client thread, which makes raw system calls. Where a row is a " +
			"difference, p50 and p99 are those of the first term minus the p50 of the second, and min is that of the minima.",
		"Services: N MiB, \"threads=N\", \"vmas=N\" and \"threads\" are a python3 program with one connection handler on epoll and N (16) MiB of touched memory, " +
			"one-threaded or with seven more threads that wait; redis is redis-server with 20,000 keys.",
		"CPU \"one\": client and service pinned to the same CPU; \"any\": no affinity.",
		"switch t_R: p50 of a request to a dormant instance (write, activate, read the reply) minus p50 of the same request to the " +
			"instance while it is active. Two instances take turns; parking is off the clock and stated beside it. " +
			"Baseline: one byte through two pipes to cat and back.",
		"pause t_C: park the instance, read its descriptors, duplicate its memory: until it could run again. total: until the " +
			"engine returns. Baseline: fork() by the same instance, in turns with the checkpoints.",
		"COW tax: a request that writes to so many pages, in an instance activated after a checkpoint, minus the same after parking " +
			"alone. It includes the pages that the interpreter itself writes to.",
		"GET: one connection of one client to redis-server under `corsa serve`, in turns with a redis-server without corsa; proxied, or " +
			"direct after a hand-over; in the container: with a redis-server that `corsa exec` has started in the service's own container instead, " +
			"which tells what is the container's. switched: two apps take turns with one request each, one instance running at a time. connect, GET, close: a " +
			"new connection of an app that has an instance for each request; a direct one is handed over meanwhile.",
		"turn: write a request to the next of so many instances, activate it, read the reply, park it. The rate is turns per second of all.",
		"dormant: growth of the kernel's MemAvailable per instance added, which other load on the machine disturbs; unique: the " +
			"private pages of a dormant instance, mean of 16.",
		"swap in the kernel: one thread's exchange of one record for another, as corsa.ko times it; of it the memory: the exchange of " +
			"page tables; activate in the kernel: the whole request. Only the kmod engine has these.",
		"\"huge=N\" is N MiB in huge pages (huge-pages=auto). 13 MiB written: the same as pause t_C, when 3,328 neighbouring pages were " +
			"written to since the last checkpoint, which is kept.",
		"restore: end the instance, by SIGKILL or with kmod by abort or exit, wait for its death, branch the newest checkpoint with its connection, activate, and have a " +
			"reply on that connection. Clearing away the dead instance is not included. restore, spare: the branch was made before.",
		"CRIU: a process of the same program that is in no container is dumped by CRIU, left running, dumped so that it ends, and restored, into and from " +
			"memory, by a CRIU that is started each time; until it is done. stopped: how long the process could not run meanwhile. " +
			"faster than CRIU: for a pause that in place of the pause, for a restore CRIU's in place of ours.",
		"new app: branch the base, connect and have a first reply; with a spare the branch was made before.",
	}
}
