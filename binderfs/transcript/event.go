package transcript

import (
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// event is a line of the kernel's trace.
type event struct {
	comm   string
	tid    int
	at     time.Duration // since boot
	name   string
	fields map[string]string
}

// parseEvent reads a line such as
//
//	binder:300_1-302  [001] ..... 12.345678: binder_transaction: transaction=7 dest_node=1 dest_proc=300 …
//
// It reports false for anything else, such as a remark that events were lost.
func parseEvent(line string) (event, bool) {
	m := eventLine().FindStringSubmatch(strings.TrimRight(line, "\n"))
	if m == nil {
		return event{}, false
	}
	tid, err := strconv.Atoi(m[2])
	seconds, serr := strconv.ParseFloat(m[3], 64)
	if err != nil || serr != nil {
		return event{}, false
	}
	e := event{comm: m[1], tid: tid, at: time.Duration(seconds * float64(time.Second)).Round(time.Microsecond), name: m[4], fields: map[string]string{}}
	for _, word := range strings.Fields(m[5]) {
		if key, value, ok := strings.Cut(word, "="); ok {
			e.fields[key] = value
		}
	}
	return e, true
}

// eventLine takes the last number after a dash for the thread, as a name may hold anything.
var eventLine = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^ *(.*)-(\d+) +\[\d+\] +(?:\S+ +)?(\d+\.\d+): (\w+): (.*)$`)
})

// number reads a field; 0 if it is not there.
func (e *event) number(key string) int64 {
	n, err := strconv.ParseInt(e.fields[key], 0, 64)
	if err != nil {
		return 0
	}
	return n
}
