package spec

import "time"

// TimerPolicy says whether a dormant instance is activated when a timeout or a timer of its own is due. The zero value is off.
type TimerPolicy struct {
	On bool
	// AtMost is how long such an instance is left alone before it is activated for the next one; 0: it is for each.
	AtMost time.Duration
}

// ParseTimerPolicy reads "off", "on" or a duration.
func ParseTimerPolicy(s string) (TimerPolicy, error) {
	switch s {
	case "off":
		return TimerPolicy{}, nil
	case "on":
		return TimerPolicy{On: true}, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return TimerPolicy{}, bad(LegalTimers, "%q is neither on nor off nor a duration", s)
	}
	if d < MinInterval {
		return TimerPolicy{}, bad(LegalTimers, "%v is shorter than %v", d, MinInterval)
	}
	return TimerPolicy{On: true, AtMost: d}, nil
}

// String is the form that ParseTimerPolicy reads.
func (p TimerPolicy) String() string {
	switch {
	case !p.On:
		return "off"
	case p.AtMost == 0:
		return "on"
	}
	return p.AtMost.String()
}
